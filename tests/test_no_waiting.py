"""In a steady step nothing of ours waits for the device: no number is read from a tensor, but by one reader."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cl.config.methods import METHODS
from cl.methods.base import ContrastiveModule
from tests.conftest import ROOT, TINY, Run
from tests.teachers import method_flags

READS = ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "cpu", "numpy", "nonzero", "__array__")
OURS = (str(ROOT / "cl"), "pytorch_lightning", "lightning_fabric")
READER = "cl/run/train/late_flags.py"
FLAGS = ["digits", "resnet18", *TINY, "--max_steps", "9", "--knn_every", "9"]
RECIPES = {
    **{method: method_flags(method) for method in METHODS},
    "swav, queue": ["--method", "swav", "--queue_size", "100", "--queue_start_epoch", "0"],  # used in the third step
    "decoupled": ["--decoupled"],
    "lars": ["--optimizer", "sgd", "--lars", "--clip_grad", "1"],
    "accumulated": ["--accumulate", "2", "--exact_negatives"],
    "multicrop": ["--multicrop", "--small_crop_size", "4", "--n_small_crops", "2", "--gaussian_prob", "0"],
}


WAITING = {"nonzero", "masked_select", "unique_dim", "_unique", "_unique2", "bincount", "equal", "repeat_interleave"}


class Waits(TorchDispatchMode):
    """Notes operations whose result has a size, or a value, that the host must know: they wait for a GPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or name in WAITING:
            self.found.append(f"{name}, called in {calling_code()}")
        return func(*args, **(kwargs or {}))


def calling_code() -> str:
    frames = [frame for frame in traceback.extract_stack() if str(ROOT / "cl") in frame.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "torch"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where the steps 4 to 6 read a number, or an index, from a tensor."""
    found: list[str] = []
    state = {"recording": False, "steps": 0}
    advance = _TrainingEpochLoop.advance

    def recorded(self: _TrainingEpochLoop, *args: object) -> None:
        state["steps"] += 1
        state["recording"] = 4 <= state["steps"] <= 6
        try:
            with Waits(found) if state["recording"] else nullcontext():
                advance(self, *args)
        finally:
            state["recording"] = False

    def spy(name: str) -> None:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *args: object, **options: object) -> object:
            caller = sys._getframe(1).f_code
            if state["recording"] and any(part in caller.co_filename for part in OURS):
                found.append(f"{Path(caller.co_filename).as_posix()}: {caller.co_name} calls {name}")
            return original(tensor, *args, **options)

        monkeypatch.setattr(Tensor, name, read)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", recorded)
    for name in READS:
        spy(name)
    yield found
    assert state["steps"] >= 6


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("lag", [0, 2])
def test_a_steady_step_reads_nothing_from_the_device(
    recipe: str, lag: int, run: Run, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl.run.train.skipped_steps.lag_on", lambda device: lag)
    monkeypatch.setattr("cl.optim._on_gpu", lambda groups: True)  # the plain optimizers of CPUs read their step
    code, _, err = run("main_contrastive.py", *FLAGS, *RECIPES[recipe])
    assert (code, err) == (0, "")
    assert [read for read in reads if READER not in read] == []
    assert len(reads) == (3 if recipe != "accumulated" else len(reads))


def test_nor_does_one_of_a_vision_transformer_with_drop_path(
    run: Run, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl.run.train.skipped_steps.lag_on", lambda device: 2)
    monkeypatch.setattr("cl.optim._on_gpu", lambda groups: True)
    crops = ["--multicrop", "--small_crop_size", "4", "--n_small_crops", "2", "--method", "dino", "--clip_grad", "3"]
    flags = ["digits", "timm/test_vit", "--patch_size", "2", *TINY[2:], "--max_steps", "9", "--knn_every", "9", *crops]
    assert run("main_contrastive.py", *flags)[::2] == (0, "")
    assert [read for read in reads if READER not in read] == []


def test_the_spies_see_a_read(run: Run, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContrastiveModule, "on_before_optimizer_step", reading)
    reading.__code__ = reading.__code__.replace(co_filename=str(ROOT / "cl/methods/base.py"))
    assert run("main_contrastive.py", *FLAGS)[0] == 0
    assert sum("reading calls __float__" in read for read in reads) == 3


def reading(self: ContrastiveModule, optimizer: torch.optim.Optimizer) -> None:
    float(next(self.parameters()).detach().sum())
