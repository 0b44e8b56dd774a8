"""How long the device has nothing to do between two steps: it waits for data, or for the host."""

import time
from collections import deque
from typing import Any

import torch

Mark = Any  # a torch.cuda.Event, or seconds
PENDING = 8  # gaps that are not looked at yet: the device has hardly passed them


class StepGaps:
    """The time from the end of each step to the start of the next, by the device's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gaps: deque[tuple[Mark, Mark]] = deque()
        self._seconds = 0.0
        self.step_ended()

    def step_ended(self) -> None:
        self._end = self._mark()

    def step_starts(self) -> None:
        self._gaps.append((self._end, self._mark()))
        while len(self._gaps) > PENDING and _has_passed(self._gaps[0][1]):
            self._read_first()

    def seconds(self) -> float:
        """The sum of all gaps; waits for the device."""
        synchronize(self._device)
        while self._gaps:
            self._read_first()
        return self._seconds

    def _mark(self) -> Mark:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read_first(self) -> None:
        end, start = self._gaps.popleft()
        self._seconds += start - end if isinstance(start, float) else end.elapsed_time(start) / 1000


def _has_passed(mark: Mark) -> bool:
    return isinstance(mark, float) or bool(mark.query())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
