"""`python -m cl.worth` says which runs were worth it, and refuses what cannot be compared."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cl import cli
from cl.worth import __main__ as worth
from cl.worth.features import Extractor
from tests.conftest import TINY, Run
from tests.pictures import write_classes

Worth = Callable[..., tuple[int, str, str]]
SMALL = ["digits", "resnet18", "--width", "8", "--proj_hidden_dim", "32", "--batch_size", "128"]
PHOTOS = [
    "custom",
    "resnet18",
    *TINY,
    "--crop_size",
    "16",
    "--batch_size",
    "16",
    "--gaussian_prob",
    "0",
    "--max_steps",
    "1",
]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Worth:
    """Call the command: exit code, stdout, stderr."""
    monkeypatch.setattr("cl.config.programs.CACHED", {"epochs": 5})  # of the linear heads; 100 take longer

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["worth", "--num_workers", "0", *arguments])
        code = 0
        try:
            cli.run(worth.main)
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


def cells(out: str, row: str) -> list[list[float]]:
    """The numbers of each column of a row: value, low, high."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"| {row} ")]
    return [[float(number) for number in re.findall(r"[-+]?\d+\.\d+(?!\))(?=[ ()]|$)|[-+]?\d+\.\d+(?=\))", cell)]
            for cell in line.split("|")[2:-1]]  # fmt: skip


def test_runs_that_help_that_change_nothing_and_that_collapse_are_called_that(
    run: Run, folder: Path, compare: Worth, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("main_contrastive.py", *SMALL, "--epochs", "8", "--run_id", "helps")[0] == 0
    quick = ["--max_steps", "1", "--init_from", "trained_models/helps"]
    for name in ("same", "collapsed", "diverged"):
        assert run("main_contrastive.py", *SMALL, *quick, "--run_id", name)[0] == 0
    replace_export(folder, "same", lambda weights: weights)
    replace_export(folder, "collapsed", lambda weights: weights | {"conv1.weight": 0 * weights["conv1.weight"]})
    edit_metrics(folder / "trained_models/diverged/metrics.csv", {"health/std": "0.01", "step": "60"})

    names = ("helps", "same", "collapsed", "diverged")
    code, out, err = compare(*(f"trained_models/{name}" for name in names))
    assert (code, err) == (0, "")
    sentences = {
        line.split(":")[0]: line for line in out.splitlines() if line.split(":")[0] in names and " s" not in line[-2:]
    }
    assert " better by " in sentences["helps"]
    assert "than random initialisation with 10 labels a class" in sentences["helps"]
    assert "no difference shown to start: helps with 10 labels a class: 0.0 (0.0 to 0.0)" in sentences["same"]
    assert "could have shown a difference of 0.0 points" in sentences["same"]
    assert sentences["collapsed"].startswith("collapsed: collapsed (")
    assert " worse by " in sentences["collapsed"]
    assert sentences["diverged"].startswith("diverged: collapsed (std x sqrt(d) 0.01, rank ")
    for name in names:
        assert (folder / f"trained_models/{name}/worth.png").stat().st_size > 5000

    # Again, with features and answers kept: the same table without a network being used.
    monkeypatch.setattr(Extractor, "_open", None)
    again = compare(*(f"trained_models/{name}" for name in names))
    assert tables(again[1]) == tables(out)


def replace_export(
    folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    """Export changed weights of the run `helps` as those of another run."""
    source, target = (folder / f"trained_models/{each}/backbone.safetensors" for each in ("helps", name))
    card = (target.parent / "backbone.json").read_text()
    save_file(change(load_file(source)), target, {"format": "pt", "card": card})


def edit_metrics(path: Path, values: dict[str, str]) -> None:
    with path.open(newline="") as file:
        rows = [row | values for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def tables(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("|")]


def pretrain(run: Run, name: str, *flags: str) -> None:
    code, _, err = run("main_contrastive.py", *PHOTOS, "--train_dir", "train", "--run_id", name, *flags)
    assert (code, err) == (0, "")


def test_held_out_images_are_those_of_the_run_or_refused(run: Run, folder: Path, compare: Worth) -> None:
    write_classes(folder / "train", {"a": 45, "b": 45})
    code, out, _ = run("main_contrastive.py", *PHOTOS, "--train_dir", "train", "--run_id", "r", "--hold_out", "0.1")
    assert code == 0
    assert "images              45 for training, 45 for validation" in out or "44 for training, 46" in out
    assert "--hold_out 0.1 holds out" in out
    assert "-m cl.worth trained_models/r\n" in out
    assert "--hold_out 0.1" in out.splitlines()[-1]
    held = (folder / "trained_models/r/held_out.txt").read_text().splitlines()
    assert all((folder / name).is_file() for name in held)
    code, out, err = compare("trained_models/r")
    assert (code, err) == (0, "")
    assert f"{len(held)} test images: held out of the training by --hold_out" in out
    (folder / held[0]).unlink()
    code, out, err = compare("trained_models/r")
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: RUN: got r, whose held-out images are no longer those of --hold_out 0.1: the files of"
    )


def test_without_held_out_images_the_table_says_that_the_network_has_seen_them(
    run: Run, folder: Path, compare: Worth
) -> None:
    write_classes(folder / "train", {"a": 45, "b": 45})
    pretrain(run, "r")
    code, out, err = compare("trained_models/r")
    assert (code, err) == (0, "")
    assert (
        "there is no --val_dir and no --hold_out: every network trained here has seen them in training, without their"
        in out
    )
    pretrain(run, "s", "--supervised")
    code, out, err = compare("trained_models/r", "trained_models/s")
    assert (code, out) == (2, "")
    assert (
        "got s, trained by supcon with the labels of all its images, expected a run with --val_dir or --hold_out" in err
    )


def test_without_labels_views_are_found_and_no_accuracy_is_said(run: Run, folder: Path, compare: Worth) -> None:
    write_classes(folder, {"train": 30})
    pretrain(run, "r")
    code, out, err = compare("trained_models/r")
    assert (code, err) == (0, "")
    assert "Accuracy cannot be said without labels." in out
    assert "every network trained here has seen them in training" in out
    assert "| other view found" in out
    assert "effective rank" in out
    assert "better by" not in out
    assert (folder / "trained_models/r/worth_neighbours.png").stat().st_size > 5000


def test_what_cannot_be_compared_is_refused_in_one_line(run: Run, folder: Path, compare: Worth) -> None:
    write_classes(folder / "train", {"a": 20, "b": 20})
    write_classes(folder / "val", {"a": 2, "b": 1})
    write_classes(folder / "other", {"a": 20, "b": 20})
    pretrain(run, "three", "--val_dir", "val")
    pretrain(run, "two")
    code, _, _ = run("main_contrastive.py", *PHOTOS, "--train_dir", "other", "--run_id", "elsewhere")
    assert code == 0
    pretrain(run, "moved")
    pretrain(run, "continued", "--init_from", "trained_models/latest")  # which then points to the run itself
    record = json.loads((folder / "trained_models/continued/config.json").read_text())
    assert record["started_from"] == str(folder / "trained_models/moved")
    (folder / "trained_models/moved").rename(folder / "trained_models/away")
    (folder / "empty").mkdir()
    config = folder / "trained_models/away/config.json"
    config.write_text(config.read_text().replace('"train"', '"nowhere"'))
    content = json.loads((folder / "trained_models/two/config.json").read_text())
    for name, change in (
        ("linear", lambda parts: parts.pop("method")),
        ("newer", lambda parts: parts["run"].update(new={"value": 1})),
    ):
        shutil.copytree(folder / "trained_models/two", folder / f"trained_models/{name}")
        parts = json.loads(json.dumps(content))
        change(parts["config"])
        (folder / f"trained_models/{name}/config.json").write_text(json.dumps(parts))
    given = "trained_models/"
    for arguments, expected in (
        (["nothing"], "RUN: got nothing, expected a run folder of main_contrastive.py: trained_models/latest; its"),
        (["empty"], "RUN: got empty, expected a run folder of main_contrastive.py"),
        ([f"{given}linear"], "its config.json is of another program or version"),
        ([f"{given}newer"], "its config.json is of another program or version (new: no such field"),
        ([f"{given}two", f"{given}two"], "expected each run once"),
        ([f"{given}two", f"{given}elsewhere"], "RUN: got elsewhere with --train_dir "),
        ([f"{given}two", f"{given}three"], "expected runs of the same images"),
        ([f"{given}three"], "with 40 labelled images of 2 classes to learn from and 3 to test on, expected at least"),
        ([f"{given}continued"], "RUN: got continued, expected the weights that it started from: --init_from: got /"),
        ([f"{given}away"], "--train_dir: got nowhere, expected a folder of images; there is nothing at that path; as"),
    ):  # fmt: skip
        code, out, err = compare(*arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert expected in err
    code, out, err = compare("trained_models/three", "--no_labels")
    assert (code, err) == (0, "")
    assert "3 images: validation images of the run" in out
