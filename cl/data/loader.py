"""Turn a sampler's (epoch, index) pairs into Batches: an executor reads in workers and finishes on the device."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from cl.batch import Batch
from cl.data.decoding.decode import BrokenFile
from cl.data.executors.base import Executor
from cl.data.images import ImageSet
from cl.data.sampler import EvalSampler, SampleKey, TrainSampler
from cl.data.sources.manifest import write_bad_images
from cl.data.worker_processes import Deliveries
from cl.errors import one_line


class EvalLoader:
    """Every image of this process's share once, in order."""

    def __init__(
        self, executor: Executor, sampler: EvalSampler, workers: int, unchecked: "Unchecked | None" = None
    ) -> None:
        self._executor = executor
        self._sampler = sampler
        self._reads = _reader(executor, sampler, workers, persistent=False, unchecked=unchecked)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._executor.batches(self._reads)

    def close(self) -> None:
        """Stop the workers."""
        del self._reads


class TrainLoader:
    """One epoch of training batches, after those that the optimizer has already consumed.

    Workers prefetch, so only the training loop knows what was consumed: it calls `step_done` after every step.
    """

    def __init__(
        self, executor: Executor, sampler: TrainSampler, workers: int, unchecked: "Unchecked | None" = None
    ) -> None:
        self._executor = executor
        self._sampler = sampler
        self._reads = _reader(executor, sampler, workers, persistent=True, unchecked=unchecked)
        self._consumed = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator on purpose: Lightning asks for the iterator before the epoch is known (Lightning#21938), and a
        # generator starts reading at the first batch.
        self._sampler.start = self._consumed
        yield from self._executor.batches(self._reads)

    def close(self) -> None:
        """Stop the workers."""
        del self._reads

    def set_epoch(self, epoch: int) -> None:
        self._sampler.epoch = epoch
        self._consumed = 0

    def step_done(self) -> None:
        self._consumed += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._sampler.epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler.epoch = state["epoch"]
        self._consumed = state["consumed"]


class BrokenFiles:
    """Broken files that this process met in images that nobody had looked at (`--bad_images trust`)."""

    def __init__(self) -> None:
        self.met: set[str] = set()
        self.file: Path | None = None  # where they are listed; known once the run has a folder

    def add(self, path: str, reason: str) -> None:
        if path in self.met:  # another worker met it
            return
        self.met.add(path)
        warning = f"warning: {path}: {reason}; the next image takes its place ({len(self.met)} so far)"
        print(one_line(warning), file=sys.stderr)
        if self.file is not None:
            write_bad_images(self.file, {path: reason})


@dataclass(frozen=True)
class Unchecked:
    """Images that nobody has looked at, and where broken ones are reported."""

    images: ImageSet
    broken: BrokenFiles


class _ExecutorReads(Dataset[Any]):
    """Adapts an executor's `read` to torch's DataLoader."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def __getitems__(self, keys: list[SampleKey]) -> Any:
        return self.executor.read(keys)


class _UncheckedReads(Dataset[Any]):
    """Reads batches in which the next readable image of the set takes the place of each broken one.

    That is a function of the files alone, so all processes, and a resumed run, agree. A worker remembers what it met.
    """

    def __init__(self, executor: Executor, images: ImageSet) -> None:
        self.executor = executor
        self.images = images
        self.broken: dict[int, BrokenFile] = {}

    def __getitems__(self, keys: list[SampleKey]) -> tuple[Any, list[tuple[str, str]]]:
        """What the executor reads, and path and reason of the broken files that were met for the first time."""
        before = len(self.broken)
        while True:
            keys = [(epoch, self._readable(index)) for epoch, index in keys]
            try:
                read = self.executor.read(keys)
                return read, [(file.path, file.reason) for file in list(self.broken.values())[before:]]
            except BrokenFile as broken:
                self._find_broken(keys, broken)

    def _readable(self, index: int) -> int:
        first = index
        while index in self.broken:
            index = (index + 1) % len(self.images)
            if index == first:
                raise self.broken[first]
        return index

    def _find_broken(self, keys: list[SampleKey], failure: BrokenFile) -> None:
        """Remember which images are broken; `failure` again if none is, or for a reason that may pass."""
        known = len(self.broken)
        for _, index in keys:
            try:
                self.images.read(index)
            except BrokenFile as broken:
                if not broken.reason:
                    raise
                self.broken[index] = broken
        if len(self.broken) == known:
            raise failure


class _Reported:
    """Deliveries of unchecked images, without the reports, which are passed on."""

    def __init__(self, deliveries: Deliveries, broken: BrokenFiles) -> None:
        self._deliveries = deliveries
        self._broken = broken

    def __iter__(self) -> Iterator[Any]:
        for read, met in self._deliveries:
            for path, reason in met:
                self._broken.add(path, reason)
            yield read


def _reader(
    executor: Executor,
    sampler: TrainSampler | EvalSampler,
    workers: int,
    persistent: bool,
    unchecked: Unchecked | None,
) -> Iterable[Any]:
    on_gpu = executor.device.type == "cuda"
    if unchecked is None:
        return Deliveries(_ExecutorReads(executor), sampler, workers, persistent, pin_memory=on_gpu)
    reads = _UncheckedReads(executor, unchecked.images)
    return _Reported(Deliveries(reads, sampler, workers, persistent, pin_memory=on_gpu), unchecked.broken)
