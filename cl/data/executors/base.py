"""The interface of executors: read a batch in a worker, then turn it into a Batch on the training device."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from cl.batch import Batch
from cl.data.prefetch import prefetch
from cl.data.sampler import SampleKey
from cl.data.views.draws import Ints


class Executor(ABC):
    """Makes the drawn views; the implementations are `torchvision`, `workers`, `resident`, `dali` and `fused`."""

    reads_files: ClassVar[bool] = True  # in workers, if there are any
    device: torch.device
    dtype: torch.dtype = torch.float32  # of the views; float64 under --precision 64

    @abstractmethod
    def read(self, keys: list[SampleKey]) -> Any:
        """A worker's part of a batch. It changes no state, so workers can persist across epochs."""

    def submit(self, reads: Iterable[Any]) -> Iterable[Any]:
        """Start asynchronous work on the reads, if there is any, and yield them."""
        return reads

    @abstractmethod
    def to_batch(self, read: Any) -> Batch:
        """The training process's part: a Batch on its device."""

    def bytes_per_image(self) -> int:
        """What a worker sends per image, from the first image."""
        return sum(tensor.nbytes for tensor in _tensors(self.read([(0, 0)])))

    def batches(self, reads: Iterable[Any]) -> Iterator[Batch]:
        for batch in prefetch(self.submit(reads), self.to_batch, self.device):
            yield batch.to_dtype(self.dtype)


def epoch_and_index(keys: list[SampleKey]) -> tuple[int, Ints]:
    """The epoch of a batch, and the indices [B] of its images."""
    return keys[0][0], np.array([index for _, index in keys])


def _tensors(read: Any) -> Iterator[torch.Tensor]:
    """All tensors of a read, which workers send in shared memory; arrays are sent through a pipe."""
    if isinstance(read, torch.Tensor):
        yield read
    elif is_dataclass(read) or isinstance(read, (list, tuple)):
        parts = read if isinstance(read, (list, tuple)) else vars(read).values()
        for part in parts:
            yield from _tensors(part)
