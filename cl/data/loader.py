"""Turn a sampler's (epoch, index) pairs into Batches: an executor reads in workers and finishes on the device."""

import os
import signal
import sys
from collections.abc import Iterator
from threading import Thread
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader, Dataset

from cl.batch import Batch
from cl.data.executors.base import Executor
from cl.data.sampler import EvalSampler, SampleKey, TrainSampler

# Workers are children of the run, whose SIGTERM they obey: with "forkserver", Python 3.14's default, they would not be.
WORKER_CONTEXT = "fork" if sys.platform == "linux" else None


class EvalLoader:
    """Every image of this process's share once, in order."""

    def __init__(self, executor: Executor, sampler: EvalSampler, workers: int) -> None:
        self._executor = executor
        self._sampler = sampler
        self._reads = _reader(executor, sampler, workers, persistent=False)

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

    def __init__(self, executor: Executor, sampler: TrainSampler, workers: int) -> None:
        self._executor = executor
        self._sampler = sampler
        self._reads = _reader(executor, sampler, workers, persistent=True)
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


class _ExecutorReads(Dataset[Any]):
    """Adapts an executor's `read` to torch's DataLoader."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def __getitems__(self, keys: list[SampleKey]) -> Any:
        return self.executor.read(keys)


def _reader(executor: Executor, sampler: TrainSampler | EvalSampler, workers: int, persistent: bool) -> DataLoader[Any]:
    return DataLoader(
        _ExecutorReads(executor),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_init_worker,
        multiprocessing_context=WORKER_CONTEXT if workers > 0 else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=executor.device.type == "cuda",
    )


def _init_worker(worker: int) -> None:
    sys.excepthook = _ignore_closed_connections
    _ignore_job_signals()


def _ignore_closed_connections(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """A run that stops does not fetch the tensors that were offered to it; torch's thread would print a traceback."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, traceback)


def _ignore_job_signals() -> None:
    """Signals to a whole job reach its workers too: if they died, no step could finish and be saved."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _unchanged(batch: Any) -> Any:
    """Collate nothing: executors read whole batches."""
    return batch
