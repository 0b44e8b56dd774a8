"""A run that was broken off goes on as if nothing had happened: the same weights, optimizer and metrics to the bit."""

import json
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.config.resume import LAST, PREVIOUS
from cl.errors import UserError
from cl.run.folder.same_run import refuse_other_data
from cl.run.train.trainer import Position
from tests.conftest import ROOT, Run
from tests.kills import differences
from tests.pictures import write_classes
from tests.teachers import method_flags

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
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


def break_off(run: Run, monkeypatch: pytest.MonkeyPatch, step: int, *command: str) -> None:
    with monkeypatch.context() as patched:
        pull_plug(patched, step)
        with pytest.raises(PulledPlug):
            run(*command)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_broken_off_ends_with_the_same_bits(
    method: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*FLAGS, *method_flags(method), "--max_steps", "18"]
    assert run(PRETRAIN, *flags, "--run_id", "whole")[0] == 0
    steps = [1, *sorted(random.Random(method).sample(range(6, 18), 2))]  # the first one before any checkpoint
    for step in steps:
        break_off(run, monkeypatch, step, PRETRAIN, *flags, "--run_id", "broken", *AUTO)
    code, out, err = run(PRETRAIN, *flags, "--run_id", "broken", *AUTO)
    assert (code, err) == (0, "")
    assert "resumes             from last.ckpt, after " in out
    assert differences(folder / "trained_models/broken", folder / "trained_models/whole") == []
    assert (folder / "trained_models/broken/summary.json").is_file()


@pytest.mark.slow
def test_three_kills_of_two_processes_with_two_workers_change_nothing() -> None:
    command = [sys.executable, "-m", "tests.kills", "simclr", "2", "2", "fast", "--kills", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| simclr | 2 | 2 | fast | 3 | nothing |" in done.stdout


def test_another_number_of_workers_gives_the_same_bits(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*FLAGS, "--loader", "torchvision", "--accumulate", "2", "--batch_size", "128"]
    assert run(PRETRAIN, *flags, "--run_id", "whole", "--num_workers", "0")[0] == 0
    break_off(run, monkeypatch, 8, PRETRAIN, *flags, "--run_id", "broken", "--num_workers", "0")
    more = ["--resume_training_from", "trained_models/broken", "--num_workers", "2"]
    code, out, err = run(PRETRAIN, "digits", "resnet18", *more)  # all other flags are the run's own
    assert (code, err) == (0, "")
    assert "resumes             from last.ckpt, after 6 of 20 steps" in out
    assert differences(folder / "trained_models/broken", folder / "trained_models/whole") == []
    about = json.loads((folder / "trained_models/broken/config.json").read_text())
    assert about["config"]["data"]["num_workers"]["value"] == 0
    assert [start["argv"] for start in about["resumed"]] == [shlex.join(["digits", "resnet18", *more])]


@pytest.fixture
def broken(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was broken off after 8 of 20 steps, with the checkpoints of steps 5 and 6."""
    break_off(run, monkeypatch, 8, PRETRAIN, *FLAGS, "--run_id", "broken")
    assert sorted(each.name for each in (folder / "trained_models/broken").glob("*.ckpt")) == [LAST, PREVIOUS]
    return folder / "trained_models/broken"


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in folder.iterdir() if each.is_file()}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--lr", "0.5"], "--lr: got 0.5, expected 0.001, with which the run in"),
        (
            ["--batch_size", "128"],
            "--batch_size: got 128 on 1 process of 128 images, expected --batch_size 256: one loss",
        ),
        (["--accumulate", "2"], "--accumulate: got 2, expected 1"),
        (["--method", "simsiam"], "--method: got simsiam, expected simclr"),
        (["--epochs", "40"], "--epochs: got 40, expected 4"),
        (["--run_id", "other"], "--run_id: got other with --resume_training_from"),
    ],
)
def test_what_would_make_it_another_run_is_refused_by_name(typed: list[str], said: str, run: Run, broken: Path) -> None:
    before = contents(broken)
    code, _, err = run(PRETRAIN, "digits", "resnet18", "--resume_training_from", str(broken), *typed)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {said}")
    assert contents(broken) == before


def test_the_same_command_resumes_with_the_precision_that_auto_stood_for(broken: Path) -> None:
    argv = ["digits", "resnet18", "--resume_training_from", str(broken), "--precision", "auto"]
    assert parse(Pretrain, argv).config.device.precision == "32"


def test_another_number_of_images_per_loss_is_refused_with_the_batch_that_would_do(run: Run, broken: Path) -> None:
    saved = torch.load(broken / LAST, weights_only=True)
    saved["cl"]["processes"] = 2
    torch.save(saved, broken / LAST)
    code, _, err = run(PRETRAIN, "digits", "resnet18", "--resume_training_from", str(broken))
    assert (code, err.count("\n")) == (2, 1)
    assert "--batch_size: got 256 on 1 process of 256 images, expected --batch_size 512: one loss sees 512" in err


def test_a_run_that_began_with_the_former_order_of_images_is_refused_by_name(run: Run, broken: Path) -> None:
    saved = torch.load(broken / LAST, weights_only=True)
    del saved["cl"]["order"]
    torch.save(saved, broken / LAST)
    code, _, err = run(PRETRAIN, "digits", "resnet18", "--resume_training_from", str(broken))
    assert (code, err.count("\n")) == (2, 1)
    assert f"--resume_training_from: got {broken / LAST}, whose images come in the order of an earlier version" in err
    assert f"start a new run with --init_from {broken / LAST}" in err


def test_other_images_are_refused(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(folder / "photos", {"a": 12, "b": 12})
    flags = ["custom", "resnet18", "--train_dir", "photos", *FLAGS[2:], "--batch_size", "8", "--crop_size", "16"]
    break_off(run, monkeypatch, 4, PRETRAIN, *flags, "--run_id", "broken")
    (folder / "photos/a/000.jpg").unlink()
    code, _, err = run(PRETRAIN, *flags, "--run_id", "broken", *AUTO)
    assert (code, err.count("\n")) == (2, 1)
    assert "--train_dir: got 23 images, expected 24 as in trained_models/broken/last.ckpt" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": tuple(f"n{number}" for number in range(999))},
            "--train_dir: got 1000 classes, expected 999 as in run/last.ckpt (number 8 is tench, expected n7); a run "
            "resumes with the same images",
        ),
        (
            {"classes": ("n0",)},
            "--train_dir: got 1000 classes, expected 1 as in run/last.ckpt (number 2 is n1, expected none); "
            "a run resumes with the same images",
        ),
        (
            {"images": 8},
            "--train_dir: got 9 images, expected 8 as in run/last.ckpt; a run resumes with the same images",
        ),
        (
            {"norm": ((0.5,) * 900, (0.25,) * 900)},
            "--train_dir: got 1800 means and stds, expected 1800 as in run/last.ckpt (number 901 is 0.5, expected "
            "0.25); a run resumes with the same images",
        ),
        (
            {"program": "Linear"},
            "--resume_training_from: got program Pretrain, expected Linear as in run/last.ckpt; a run resumes with the "
            "program that began it",
        ),
        (
            {"schema": 2},
            "--resume_training_from: got schema 1, expected 2 as in run/last.ckpt; a run resumes with the version of "
            "cl that began it",
        ),
    ],
)
def test_what_differs_is_said_in_a_few_words(change: dict[str, Any], message: str) -> None:
    names = tuple("tench" if number == 7 else f"n{number}" for number in range(1000))
    norm = ((0.5,) * 900, (0.5,) * 900)
    now: dict[str, Any] = {"program": "Pretrain", "schema": 1, "images": 9, "classes": names, "norm": norm}
    with pytest.raises(UserError) as refused:
        refuse_other_data(now | change, now, Path("run/last.ckpt"))
    assert str(refused.value) == message


def test_a_checkpoint_that_is_not_whole_is_passed_over(run: Run, broken: Path) -> None:
    newest = broken / LAST
    newest.write_bytes(newest.read_bytes()[:-1000])
    code, out, err = run(PRETRAIN, *FLAGS, "--run_id", "broken", *AUTO)
    assert (code, err.count("\n")) == (0, 1)
    assert "last.ckpt is incomplete or damaged" in err
    assert "resumes             from previous.ckpt, after 5 of 20 steps" in out


@pytest.mark.parametrize("saved", [b"epoch;step\n1;5\n", b"epoch,step\n1,five\n", b"\x89PNG\xff"])
def test_a_table_that_another_program_has_saved_is_refused_and_may_be_moved_away(
    saved: bytes, run: Run, broken: Path
) -> None:
    (broken / "metrics.csv").write_bytes(saved)
    before = contents(broken)
    code, _, err = run(PRETRAIN, "digits", "resnet18", "--resume_training_from", str(broken))
    assert (code, err.count("\n")) == (2, 1)
    assert "expected metrics.csv as the run wrote it" in err
    assert contents(broken) == before
    (broken / "metrics.csv").unlink()
    assert run(PRETRAIN, "digits", "resnet18", "--resume_training_from", str(broken))[0] == 0


def test_without_a_whole_checkpoint_auto_starts_afresh_and_a_named_folder_is_refused(run: Run, broken: Path) -> None:
    for name in (LAST, PREVIOUS):
        (broken / name).write_bytes(b"<html>not found</html>")
    code, _, err = run(PRETRAIN, *FLAGS, "--resume_training_from", str(broken))
    assert code == 2
    assert "expected a checkpoint to resume from; " in err
    code, out, err = run(PRETRAIN, *FLAGS, "--run_id", "broken", *AUTO)
    assert (code, err.count("\n")) == (0, 1)
    assert "starting a new run" in err
    assert "resumes" not in out
    assert len((broken / "metrics.csv").read_text().splitlines()) == 5


def test_a_finished_run_is_left_as_it_is(run: Run, folder: Path) -> None:
    flags = [*FLAGS[:-4], "--epochs", "1", "--run_id", "done"]
    assert run(PRETRAIN, *flags)[0] == 0
    before = contents(folder / "trained_models/done")
    code, out, err = run(PRETRAIN, *flags, *AUTO)
    assert (code, out, err) == (0, "trained_models/done is finished\n", "")
    assert contents(folder / "trained_models/done") == before


def test_a_run_that_was_killed_after_its_last_step_repeats_the_last_steps_and_closes(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *FLAGS, "--run_id", "whole")[0] == 0
    shutil.copytree(folder / "trained_models/whole", folder / "trained_models/late")
    (folder / "trained_models/late/summary.json").unlink()
    code, out, err = run(PRETRAIN, *FLAGS, "--run_id", "late", *AUTO)
    assert (code, err.count("\n")) == (0, 1)
    assert "has all 20 steps, but the run did not finish" in err
    assert "resumes             from previous.ckpt, after 18 of 20 steps" in out
    assert differences(folder / "trained_models/late", folder / "trained_models/whole") == []
    assert (folder / "trained_models/late/summary.json").is_file()


def test_auto_needs_a_name_which_a_slurm_job_has(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run(PRETRAIN, *FLAGS, *AUTO)
    assert (code, err.count("\n")) == (2, 1)
    assert "expected --run_id with it (or a SLURM job)" in err
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    break_off(run, monkeypatch, 8, PRETRAIN, *FLAGS, *AUTO)
    code, out, _ = run(PRETRAIN, *FLAGS, *AUTO)
    assert code == 0
    assert "resumes             from last.ckpt, after 6 of 20 steps" in out
    assert (folder / "trained_models/slurm-77/summary.json").is_file()


def test_an_evaluation_on_cached_features_starts_afresh(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *FLAGS, "--max_steps", "1", "--run_id", "backbone")[0] == 0
    flags = ["digits", "resnet18", "--pretrained_feature_extractor", "trained_models/backbone", "--protocol", "cached"]
    flags += ["--epochs", "1", "--run_id", "linear", *AUTO]
    assert run(LINEAR, *flags)[0] == 0
    found = folder / "trained_models/linear"
    rows = {name: (found / name).read_text() for name in ("metrics.csv", "grid.csv")}
    (found / "summary.json").unlink()  # as if it had been killed there
    code, _, err = run(LINEAR, *flags)
    assert (code, err) == (0, "")
    assert {name: (found / name).read_text() for name in rows} == rows


def test_linear_evaluation_goes_on_too(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(PRETRAIN, *FLAGS, "--max_steps", "1", "--run_id", "backbone")[0] == 0
    flags = ["digits", "resnet18", "--pretrained_feature_extractor", "trained_models/backbone", "--batch_size", "256"]
    flags += ["--epochs", "3", "--lr", "0.01", "0.1", "--checkpoint_every_n_steps", "2"]
    assert run(LINEAR, *flags, "--run_id", "whole")[0] == 0
    break_off(run, monkeypatch, 8, LINEAR, *flags, "--run_id", "broken")
    code, out, err = run(LINEAR, *flags, "--run_id", "broken", *AUTO)
    assert (code, err) == (0, "")
    assert "resumes             from last.ckpt, after " in out
    assert differences(folder / "trained_models/broken", folder / "trained_models/whole") == []
