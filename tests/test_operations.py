"""How many operations a step dispatches outside of the network's forward and backward and the views."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm.optim.lars
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cl.data.loader import TrainLoader
from cl.evaluation.online.epoch_means import EpochMeans
from cl.methods.base import ContrastiveModule
from cl.run.train.skipped_steps import SkipNonFinite
from tests.conftest import Run

FLAGS = ["digits", "resnet18", "--width", "4", "--batch_size", "64", "--max_steps", "9", "--knn_every", "9"]
BEFORE = 266 + 32 + 19 + 12  # optimizer, means, guard, other: of a step before they were batched


class Count(TorchDispatchMode):
    """Counts operations by the part of the step that dispatches them."""

    def __init__(self) -> None:
        super().__init__()
        self.part = "other"
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:  # which launches nothing
            self.counts[self.part] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        outer = self.part
        self.part = part
        try:
            yield
        finally:
            self.part = outer


def attribute(patch: pytest.MonkeyPatch, count: Count, owner: type, name: str, part: str) -> None:
    """Count what `owner.name` dispatches as `part`."""
    original = vars(owner)[name]

    def attributed(*args: Any, **options: Any) -> Any:
        with count.within(part):
            return original(*args, **options)

    patch.setattr(owner, name, attributed)


@pytest.mark.parametrize("optimizer", [["sgd"], ["adamw"], ["sgd", "--lars"]])
def test_a_step_costs_a_third_of_the_operations_that_it_did(
    optimizer: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the settings of a GPU: fused optimizers, and bad steps undone on the device."""
    count = Count()
    as_on_a_gpu(monkeypatch)
    attribute(monkeypatch, count, ContrastiveModule, "training_step", "forward")
    attribute(monkeypatch, count, Tensor, "backward", "backward")
    for name in ("add", "flush", "copy", "restore_unless"):
        attribute(monkeypatch, count, EpochMeans, name, "means")
    for name in ("on_train_batch_start", "on_before_optimizer_step", "_restore_unless"):
        attribute(monkeypatch, count, SkipNonFinite, name, "guard")
    in_views(monkeypatch, count)
    counted = in_steps_4_to_6(monkeypatch, count)
    code, _, err = run("main_contrastive.py", *FLAGS, "--optimizer", *optimizer)
    assert (code, err) == (0, "")
    per_step = {part: number / counted() for part, number in count.counts.items()}
    print(per_step)
    assert per_step["forward"] > 80
    assert per_step["backward"] > 80
    assert sum(per_step[part] for part in ("means", "guard", "other")) <= BEFORE / 3


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("cl.run.train.skipped_steps.lag_on", lambda device: 2)
    patch.setattr("cl.optim._on_gpu", lambda groups: True)
    patch.setattr(timm.optim.lars, "_resolve_foreach", lambda *_, **__: True)


def in_views(patch: pytest.MonkeyPatch, count: Count) -> None:
    load = TrainLoader.__iter__

    def batches(self: TrainLoader) -> Iterator[Any]:
        loaded = load(self)
        while True:
            with count.within("views"):
                batch = next(loaded, None)
            if batch is None:
                return
            yield batch

    patch.setattr(TrainLoader, "__iter__", batches)


def in_steps_4_to_6(patch: pytest.MonkeyPatch, count: Count) -> Callable[[], int]:
    """Count in these steps only; returns how many there were."""
    advance = _TrainingEpochLoop.advance
    steps = iter(range(1, 1000))
    counted = []

    def stepped(self: _TrainingEpochLoop, *args: Any) -> None:
        number = next(steps)
        if 4 <= number <= 6:
            counted.append(number)
            with count:
                return advance(self, *args)
        return advance(self, *args)

    patch.setattr(_TrainingEpochLoop, "advance", stepped)
    return lambda: len(counted)
