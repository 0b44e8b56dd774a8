"""From a sampler's (epoch, index) pairs to Batches: an executor reads, in workers, and finishes, on the device."""

import os
import signal
from collections.abc import Iterator
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader, Dataset

from cl.batch import Batch
from cl.data.executors.base import Executor
from cl.data.sampler import EvalSampler, SampleKey, TrainSampler


class EvalLoader:
    """Every image of this process's share once, in order."""

    def __init__(self, executor: Executor, sampler: EvalSampler, workers: int) -> None:
        self._executor = executor
        self._sampler = sampler
        self._reads = _dataloader(executor, sampler, workers, persistent=False)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._executor.batches(self._reads)

    def close(self) -> None:
        """End the workers."""
        del self._reads


class TrainLoader:
    """One epoch of training batches, from a position that counts the batches the optimizer has consumed.

    Workers fetch ahead, so only the training loop knows what was consumed: it calls `step_done` after every step.
    """

    def __init__(self, executor: Executor, sampler: TrainSampler, workers: int) -> None:
        self._executor = executor
        self._sampler = sampler
        self._reads = _dataloader(executor, sampler, workers, persistent=True)
        self._consumed = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator on purpose: Lightning asks for the iterator before the epoch is known (Lightning#21938), and a
        # generator starts to read at the first batch.
        self._sampler.start = self._consumed
        yield from self._executor.batches(self._reads)

    def close(self) -> None:
        """End the workers."""
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


class _Reads(Dataset[Any]):
    """An executor's reads, as torch's DataLoader asks for them."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def __getitems__(self, keys: list[SampleKey]) -> Any:
        return self.executor.read(keys)


def _dataloader(
    executor: Executor, sampler: TrainSampler | EvalSampler, workers: int, persistent: bool
) -> DataLoader[Any]:
    return DataLoader(
        _Reads(executor),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_read,
        worker_init_fn=_leave_signals_to_the_run,
        persistent_workers=persistent and workers > 0,
        pin_memory=executor.device.type == "cuda",
    )


def _leave_signals_to_the_run(worker: int) -> None:
    """What is sent to a whole job reaches its workers: if they died of it, no step could end and be saved."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_end_when_the_run_says_so, daemon=True).start()


def _end_when_the_run_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _as_read(batch: Any) -> Any:
    """The executors read whole batches already."""
    return batch
