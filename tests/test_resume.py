"""A run that was broken off goes on as if nothing had happened: the same weights, optimizer and metrics to the bit."""

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer

from cl.config.methods import METHODS
from cl.run.trainer import Position
from tests.conftest import Run
from tests.kills import differences

PRETRAIN = "main_contrastive.py"
FLAGS = ["digits", "resnet18", "--width", "4", "--proj_hidden_dim", "16", "--batch_size", "256", "--knn_every", "2"]
FLAGS += ["--epochs", "4", "--checkpoint_every_n_steps", "2"]  # five steps an epoch
AUTO = ["--resume_training_from", "auto"]


class PulledPlug(BaseException):
    """The power fails."""


def pull_plug(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Break off at the end of an optimizer step, before anything else is told of it."""
    done = Position.on_train_batch_end

    def failing(self: Position, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == step:
            raise PulledPlug
        done(self, trainer, *rest)

    monkeypatch.setattr(Position, "on_train_batch_end", failing)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_broken_off_ends_with_the_same_bits(
    method: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*FLAGS, "--method", method]
    assert run(PRETRAIN, *flags, "--run_id", "whole")[0] == 0
    for step in (1, 8, 14):  # before the first checkpoint, within the second epoch, within the third
        with monkeypatch.context() as patched:
            pull_plug(patched, step)
            with pytest.raises(PulledPlug):
                run(PRETRAIN, *flags, "--run_id", "broken", *AUTO)
    code, out, err = run(PRETRAIN, *flags, "--run_id", "broken", *AUTO)
    assert (code, err) == (0, "")
    assert "goes on             from last.ckpt, after 12 of 20 steps" in out
    assert differences(folder / "trained_models/broken", folder / "trained_models/whole") == []
    assert (folder / "trained_models/broken/summary.json").is_file()
