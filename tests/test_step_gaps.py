"""The time between two steps is the device's, and is read without waiting for it."""

import time

import pytest
import torch

from cl.run.train import step_gaps
from cl.run.train.step_gaps import PENDING, StepGaps


def test_on_a_cpu_gaps_are_the_time_between_steps() -> None:
    gaps = StepGaps(torch.device("cpu"))
    for _ in range(3):
        time.sleep(0.02)
        gaps.step_starts()
        time.sleep(0.05)
        gaps.step_ended()
    assert gaps.seconds() == pytest.approx(0.06, abs=0.03)


class Event:
    """Stands for a CUDA event, which the device passes at a time that the test sets."""

    now, passed = 0.0, 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        self.time = Event.now

    def query(self) -> bool:
        return self.time <= Event.passed

    def elapsed_time(self, other: "Event") -> float:
        assert self.query(), "not ready"
        assert other.query(), "not ready"
        return 1000 * (other.time - self.time)


@pytest.mark.parametrize("behind", [0, 5, 100])
def test_on_a_gpu_a_gap_is_read_when_the_device_has_passed_it(behind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(step_gaps, "synchronize", lambda device: setattr(Event, "passed", Event.now))
    Event.now = Event.passed = 0.0
    gaps = StepGaps(torch.device("cuda"))
    for step in range(40):
        Event.now += 0.25  # the device has nothing to do
        gaps.step_starts()
        Event.now += 1.0
        gaps.step_ended()
        Event.passed = max(0.0, 1.25 * (step + 1 - behind))
        assert len(gaps._gaps) <= PENDING + 1 + behind
    assert gaps.seconds() == pytest.approx(10.0)
