"""What the device has decided about each step, read by the host some steps later: the only place that waits for it."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")
LAG = 2  # steps that the host runs ahead of a GPU; with more, memory would fill with batches


def lag_on(device: torch.device) -> int:
    """How many steps old a verdict is when it is read."""
    return LAG if device.type == "cuda" else 0


class Verdict(NamedTuple, Generic[S]):
    step: S
    taken: Tensor  # bool, scalar, on the host once `ready` has passed
    ready: torch.cuda.Event | None


class Verdicts(Generic[S]):
    """A queue of steps and whether they were taken."""

    def __init__(self, lag: int) -> None:
        self._lag = lag
        self._queue: deque[Verdict[S]] = deque()

    def add(self, step: S, taken: Tensor) -> None:
        """`taken` is a scalar on the device; its copy to the host does not wait."""
        if taken.device.type == "cuda":
            host = torch.empty((), dtype=taken.dtype, pin_memory=True).copy_(taken, non_blocking=True)
            ready = torch.cuda.current_stream(taken.device).record_event()
            self._queue.append(Verdict(step, host, ready))
        else:
            self._queue.append(Verdict(step, taken.clone(), None))

    def due(self, everything: bool = False) -> Iterator[tuple[S, bool]]:
        """The steps that are more than `lag` steps old, or all, oldest first, and whether each was taken."""
        while len(self._queue) > (0 if everything else self._lag):
            step, taken, ready = self._queue.popleft()
            if ready is not None:
                ready.synchronize()
            yield step, bool(taken)
