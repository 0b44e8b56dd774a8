"""Turn a sampler's (epoch, index) pairs into Batches: an executor reads in workers and finishes on the device."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset

from cl.batch import Batch
from cl.data.executors.base import Executor
from cl.data.sampler import EvalSampler, SampleKey, TrainSampler
from cl.data.worker_processes import Deliveries


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


def _reader(executor: Executor, sampler: TrainSampler | EvalSampler, workers: int, persistent: bool) -> Deliveries:
    on_gpu = executor.device.type == "cuda"
    return Deliveries(_ExecutorReads(executor), sampler, workers, persistent, pin_memory=on_gpu)
