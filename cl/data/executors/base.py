"""The interface of executors: read a batch in a worker, then turn it into a Batch on the training device."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from cl.batch import Batch
from cl.data.decoding.decode import BrokenFile
from cl.data.prefetch import prefetch
from cl.data.sampler import SampleKey
from cl.errors import Stopped


class Executor(ABC):
    """Makes the drawn views; the implementations are `torchvision`, `workers`, `resident` and `dali`."""

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

    def batches(self, reads: Iterable[Any]) -> Iterator[Batch]:
        for batch in prefetch(self.submit(_stop_at_broken_files(reads)), self.to_batch, self.device):
            yield batch.to_dtype(self.dtype)


def _stop_at_broken_files(reads: Iterable[Any]) -> Iterator[Any]:
    """Stop the run with one line if a file breaks during it."""
    try:
        yield from reads
    except BrokenFile as error:
        reason = str(error).rstrip().split("BrokenFile: ")[-1]  # a worker's exception carries its traceback as text
        raise Stopped(f"{reason}; it was a valid image when the run began, restore it and resume", 1) from None
