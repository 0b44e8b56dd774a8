"""Flags that the device decides, read by the host some steps later: the only place of a step that waits for it."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")
LAG = 2  # steps that the host runs ahead of a GPU; with more, memory would fill with batches


def lag_on(device: torch.device) -> int:
    """How many steps old a flag is when it is read; a CPU has nothing to wait for."""
    return LAG if device.type == "cuda" else 0


class LateFlag(NamedTuple, Generic[S]):
    step: S
    flag: Tensor  # bool, scalar, in the host's memory once `copied` has passed
    copied: torch.cuda.Event | None


class LateFlags(Generic[S]):
    """A queue of steps, each with its flag."""

    def __init__(self, lag: int) -> None:
        self._lag = lag
        self._queue: deque[LateFlag[S]] = deque()

    def add(self, step: S, flag: Tensor) -> None:
        """`flag` is a bool scalar on the device; nothing waits for its copy."""
        if flag.device.type == "cuda":
            host = torch.empty((), dtype=flag.dtype, pin_memory=True).copy_(flag, non_blocking=True)
            copied = torch.cuda.current_stream(flag.device).record_event()
            self._queue.append(LateFlag(step, host, copied))
        else:
            self._queue.append(LateFlag(step, flag.clone(), None))

    def due(self, everything: bool = False) -> Iterator[tuple[S, bool]]:
        """The steps that are more than `lag` steps old, or all, oldest first, each with its flag."""
        while len(self._queue) > (0 if everything else self._lag):
            step, flag, copied = self._queue.popleft()
            if copied is not None:
                copied.synchronize()
            yield step, bool(flag)
