"""What every executor does: read a batch in a worker, and turn what was read into a Batch on the training device."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from cl.batch import Batch
from cl.data.decode import BrokenFile
from cl.data.prefetch import prefetch
from cl.data.sampler import SampleKey
from cl.errors import Stopped


class Executor(ABC):
    """A way to make the views that were drawn: `torchvision`, `workers`, `resident` or `dali`."""

    device: torch.device

    @abstractmethod
    def read(self, keys: list[SampleKey]) -> Any:
        """A worker's part of a batch. It changes no state, so workers may be kept across epochs."""

    def submit(self, reads: Iterable[Any]) -> Iterable[Any]:
        """Start whatever can run asynchronously on what was read, and yield it."""
        return reads

    @abstractmethod
    def to_batch(self, read: Any) -> Batch:
        """The training process's part: a Batch on its device."""

    def batches(self, reads: Iterable[Any]) -> Iterator[Batch]:
        return prefetch(self.submit(_stop_at_broken_files(reads)), self.to_batch, self.device)


def _stop_at_broken_files(reads: Iterable[Any]) -> Iterator[Any]:
    """A file that breaks during the run ends it in one line."""
    try:
        yield from reads
    except BrokenFile as error:
        reason = str(error).rstrip().split("BrokenFile: ")[-1]  # a worker's exception carries its traceback as text
        raise Stopped(f"{reason}; it was an image when the run began, restore it and resume", 1) from None
