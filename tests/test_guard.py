"""What is not finite costs one step, and is named; a run that meets nothing else stops with its last finite state."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision

from cl.run.folder.checkpoint import SaveLast
from cl.run.train.skipped_steps import SkipNonFinite
from tests import toy_queue
from tests.conftest import ROOT, TINY, Run
from tests.kills import differences, same, state_of
from tests.test_methods import build

PRETRAIN = "main_contrastive.py"
FLAGS = ["digits", "resnet18", *TINY, "--batch_size", "256", "--scheduler", "none", "--knn_every", "9"]


def test_a_batch_that_is_not_finite_leaves_no_trace_but_a_warning(
    run: Run, folder: Path, spoil: Callable[..., None]
) -> None:
    assert run(PRETRAIN, *FLAGS, "--max_steps", "2", "--run_id", "two")[0] == 0
    spoil(3)
    code, _, err = run(PRETRAIN, *FLAGS, "--max_steps", "3", "--run_id", "three")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("warning: epoch 1, step 3 skipped: the views of image ")
    two, three = (state_of(folder / f"trained_models/{name}") for name in ("two", "three"))
    parts = ("/state_dict/", "/optimizer_states/", "/epoch_sums/0/loss", "/epoch_sums/0/online_linear/train_top1")
    kept = [name for name in two if name.startswith(parts)]
    assert len(kept) > 300
    assert all(same(two[name], three[name]) for name in kept)


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_too_many_in_a_row_stop_the_run_with_its_last_finite_state(
    accumulate: str, run: Run, folder: Path, spoil: Callable[..., None]
) -> None:
    spoil(*range(3, 100))
    flags = ["--epochs", "9", "--accumulate", accumulate, "--max_skipped_steps", "1", "--run_id", "bad"]
    code, _, err = run(PRETRAIN, *FLAGS, *flags)
    assert code == 3
    *warnings, stopped = err.splitlines()
    assert len(warnings) == 2
    assert stopped.startswith("stopped: 2 steps in a row were not finite; the last finite state is saved")
    saved = state_of(folder / "trained_models/bad")
    assert all(leaf.isfinite().all() for leaf in saved.values() if isinstance(leaf, torch.Tensor))
    assert saved["/global_step"] == 4 if accumulate == "1" else 3


def rows_of(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "metrics.csv").open(newline="") as file:
        return [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("scheduler", ["none", "reduce"])
def test_epochs_of_skipped_steps_have_no_loss_and_end_with_the_limit(
    scheduler: str, run: Run, folder: Path, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl.evaluation.pictures.curves_picture.REDRAW_SECONDS", 0)
    spoil(*range(4, 100))
    code, out, err = run(PRETRAIN, *FLAGS, "--scheduler", scheduler, "--epochs", "9", "--run_id", "bad")
    assert code == 3
    *warnings, stopped = err.splitlines()
    assert len(warnings) == 11
    assert stopped.startswith("stopped: 11 steps in a row were not finite; the last finite state is saved")
    assert "epoch 2/9  no finite step  val " in out
    first, second = rows_of(folder / "trained_models/bad")
    assert "loss" in first
    assert not {"loss", "online_linear/train_top1"} & second.keys()
    assert "nan" not in (folder / "trained_models/bad/metrics.csv").read_text()
    assert (folder / "trained_models/bad/curves.png").exists()

    resume = [PRETRAIN, *FLAGS[:2], "--resume_training_from", "trained_models/bad"]
    assert run(*resume)[0] == 3  # every batch is still spoiled
    spoil()
    code, out, err = run(*resume)
    assert (code, err) == (0, "")
    assert "epoch 9/9  loss " in out


@pytest.mark.parametrize(
    ("spoiled", "flags", "count"),
    [
        (range(1, 100), ["--fast_dev_run"], "the last step was not finite"),
        (range(1, 100), ["--epochs", "1"], "5 steps in a row were not finite"),
        (range(6, 100), ["--epochs", "2"], "5 steps in a row were not finite"),
        (range(5, 100), ["--epochs", "3", "--max_skipped_steps", "10"], "11 steps in a row were not finite"),
        ((5,), ["--epochs", "1", "--max_skipped_steps", "0"], "the last step was not finite"),
    ],
)
def test_a_run_that_ends_with_skipped_steps_only_is_no_success(
    spoiled: Iterable[int], flags: list[str], count: str, run: Run, folder: Path, spoil: Callable[..., None]
) -> None:
    spoil(*spoiled)
    code, out, err = run(PRETRAIN, *FLAGS, *flags, "--run_id", "bad")
    assert code == 3
    assert err.splitlines()[-1].startswith(f"stopped: {count}; the last finite state is saved")
    assert "Traceback" not in err
    assert "nan" not in out
    files = {file.name for file in (folder / "trained_models/bad").iterdir()}
    assert "last.ckpt" in files
    assert not {"summary.json", "backbone.safetensors"} & files


def test_the_count_of_skipped_steps_survives_a_kill(run: Run, folder: Path, spoil: Callable[..., None]) -> None:
    spoil(*range(4, 8))
    flags = [*FLAGS, "--epochs", "9", "--max_skipped_steps", "5", "--run_id", "bad", "--resume_training_from", "auto"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaveLast, "on_train_epoch_start", _killed_in_the_second_epoch, raising=False)
        with pytest.raises(ZeroDivisionError):
            run(PRETRAIN, *flags)
    spoil(*range(1, 100))
    code, _, err = run(PRETRAIN, *flags)
    assert code == 3
    assert "stopped: 6 steps in a row were not finite" in err
    assert err.count("warning: epoch 2") == 4  # two were skipped before the kill


def _killed_in_the_second_epoch(save: SaveLast, trainer: Trainer, _: object) -> None:
    if trainer.current_epoch == 1:
        raise ZeroDivisionError


def test_a_step_that_the_grad_scaler_skips_changes_no_state_and_is_not_counted() -> None:
    guard = SkipNonFinite(save=cast(SaveLast, None), max_in_a_row=0)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    module = build("byol")
    optimizer = torch.optim.SGD(module.parameters())
    trainer = cast(
        Trainer,
        SimpleNamespace(precision_plugin=scaled, optimizers=[optimizer], current_epoch=0, global_step=0),
    )
    guard.on_train_start(trainer, module)
    for gradient, taken in ((torch.inf, 0), (1.0, 1)):
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        guard.on_before_backward(trainer, module, torch.zeros(()))
        guard.on_before_optimizer_step(trainer, module, optimizer)
        assert module.step_taken == taken
        assert all(parameter.grad is not None for parameter in module.parameters())  # left to the scaler


STATEFUL = ["--teacher_momentum", "0.9", "--teacher_momentum_end", "0.9"]
RECIPES = {
    "sgd": ["--optimizer", "sgd", "--lr", "0.3"],
    "sgd_without_momentum": ["--optimizer", "sgd", "--momentum", "0"],
    "adam": ["--optimizer", "adam", "--lr", "1e-3"],
    "adamw": ["--optimizer", "adamw", "--lr", "1e-3", "--no_decay_biases_and_norms"],
    "lars": ["--optimizer", "sgd", "--lars", "--lr", "0.3"],
    "accumulated": ["--optimizer", "sgd", "--accumulate", "2", "--batch_size", "128"],
    "byol": ["--method", "byol", *STATEFUL, "--clip_grad", "1"],
    "simsiam": ["--method", "simsiam", "--dali"],
    "queue": ["--method", toy_queue.NAME],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_flag_that_is_read_two_steps_later_gives_the_same_bits(
    recipe: str, run: Run, folder: Path, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch, toy: None
) -> None:
    """As on a GPU, where a bad step is taken, undone on the device, and reported later; bad at 1, 4, 5, 10."""
    bad = (1, 4, 5, 10) if recipe != "accumulated" else (1, 7, 10, 20)
    flags = [*FLAGS, *RECIPES[recipe], "--max_steps", "12", "--epochs", "9", "--checkpoint_every_n_steps", "3"]
    printed = {}
    for lag in (0, 2):
        with monkeypatch.context() as patch:
            patch.setattr("cl.run.train.skipped_steps.lag_on", lambda device, lag=lag: lag)
            spoil(*bad)
            code, _, err = run(PRETRAIN, *flags, "--run_id", f"lag_{lag}")
            assert code == 0
            printed[lag] = err
    assert printed[0].count(" skipped: the views of image") == 4
    assert printed[0] == printed[2]
    assert differences(folder / "trained_models/lag_0", folder / "trained_models/lag_2") == []


def test_too_many_in_a_row_stop_a_run_whose_flags_are_read_two_steps_later(
    run: Run, folder: Path, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl.run.train.skipped_steps.lag_on", lambda device: 2)
    spoil(*range(3, 100))
    code, _, err = run(PRETRAIN, *FLAGS, "--epochs", "9", "--max_skipped_steps", "1", "--run_id", "bad")
    assert code == 3
    *warnings, stopped = err.splitlines()
    assert [warning.split(":")[1] for warning in warnings] == [f" epoch 1, step {n} skipped" for n in (3, 4, 5)]
    assert stopped.startswith("stopped: 3 steps in a row were not finite; the last finite state is saved")
    saved = state_of(folder / "trained_models/bad")
    assert all(leaf.isfinite().all() for leaf in saved.values() if isinstance(leaf, torch.Tensor))


@pytest.mark.parametrize("lag", [0, 2])
def test_a_good_last_step_of_an_epoch_does_not_hide_too_many_bad_ones(
    lag: int, run: Run, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl.run.train.skipped_steps.lag_on", lambda device: lag)
    spoil(3, 4)  # of 5 steps
    code, _, err = run(PRETRAIN, *FLAGS, "--epochs", "2", "--max_skipped_steps", "1")
    assert code == 3
    assert "stopped: 2 steps in a row were not finite" in err


RANK_ONE = """
import sys
sys.path.insert(0, {root!r})
import torch
import main_contrastive
from cl import cli
from cl.data.loader import TrainLoader
from cl.distributed import rank
from cl.run.train import skipped_steps

skipped_steps.lag_on = lambda device: {lag}
load = TrainLoader.__iter__
def batches(self):
    for number, batch in enumerate(load(self)):
        if rank() == 1 and number >= {first} and number <= {last}:
            batch.views[0][:, 0] = torch.inf
        yield batch
TrainLoader.__iter__ = batches
cli.run(main_contrastive.main)
"""


def test_a_bad_batch_on_one_rank_is_left_out_on_all_of_them_also_two_steps_later(tmp_path: Path) -> None:
    flags = [*FLAGS, "--batch_size", "128", "--devices", "2", "--accelerator", "cpu", "--max_steps", "4"]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    for lag in (0, 2):
        (tmp_path / "spoiled.py").write_text(RANK_ONE.format(root=str(ROOT), lag=lag, first=1, last=1))
        command = [sys.executable, "spoiled.py", *flags, "--run_id", f"lag_{lag}"]
        done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("warning: epoch 1, step 2 skipped: the views of image ")
    summary = json.loads((tmp_path / "trained_models/lag_0/summary.json").read_text())
    assert all(value == value and abs(value) < 1e9 for value in summary.values())
    assert differences(tmp_path / "trained_models/lag_0", tmp_path / "trained_models/lag_2") == []


@pytest.mark.slow
def test_several_processes_end_together_when_every_step_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "spoiled.py").write_text(RANK_ONE.format(root=str(ROOT), lag=0, first=0, last=99))
    flags = [*FLAGS, "--batch_size", "128", "--devices", "2", "--accelerator", "cpu", "--epochs", "9"]
    command = [sys.executable, "spoiled.py", *flags, "--max_skipped_steps", "6", "--run_id", "two"]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    *warnings, stopped = done.stderr.splitlines()
    assert len(warnings) == 7
    assert stopped.startswith("stopped: 7 steps in a row were not finite")
    assert "epoch 1/9  no finite step" in done.stdout
