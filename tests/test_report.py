"""cl.report: which runs form a row, what its numbers are, and what it skips."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cl.errors import UserError
from cl.report import main, report
from tests.conftest import ROOT, TINY, Run

PRETRAIN = {
    "data": {"dataset": "digits", "batch_size": 64, "loader": "torchvision"},
    "backbone": {"encoder": "resnet18", "width": 64},
    "method": {"method": "simclr", "proj_output_dim": 128, "temperature": 0.2},
    "views": {"multicrop": False},
    "optim": {"lr": 0.3, "accumulate": 2},
    "device": {"gpus": None, "devices": 2, "num_nodes": 1},
}
LINEAR = {
    "data": {"dataset": "digits", "batch_size": 256, "loader": "torchvision"},
    "backbone": {"encoder": "resnet18"},
    "linear": {"pretrained_feature_extractor": "trained_models/latest", "protocol": "standard"},
    "optim": {"lr": 0.03},
}
RUN = {"epochs": 12, "max_steps": None, "dry_run": False, "fast_dev_run": False}
OLDER_CONFIG = json.dumps({"config": {"run": {"seed": {"value": 0, "origin": "default"}}}})  # has fewer flags
END_TIMES = iter(range(10**9, 2 * 10**9))  # seconds, each later than the one before


def write(folder: Path, parts: dict[str, Any], metrics: dict[str, float] | None, seed: int = 0, **flags: Any) -> Path:
    """Write a run folder with the flags of `parts`; `flags` override them and count as typed."""
    parts = parts | {"run": RUN | {"seed": seed, "run_id": folder.name}}
    config = {
        part: {
            name: {"value": flags.get(name, value), "origin": "typed" if name in flags else "default"}
            for name, value in values.items()
        }
        for part, values in parts.items()
    }
    folder.mkdir(parents=True)
    content = {"schema": 1, "config": config}
    (folder / "config.json").write_text(json.dumps(content))
    if metrics is not None:
        (folder / "summary.json").write_text(json.dumps(metrics))
        end = next(END_TIMES)
        os.utime(folder / "summary.json", (end, end))
    return folder


def write_linear(folder: Path, pretrained: str, accuracy: float, seed: int = 0, **flags: Any) -> None:
    """Write an evaluation of the run folder or file `pretrained`."""
    write(folder, LINEAR, {"offline_linear/val_top1": accuracy}, seed, **flags)
    content = json.loads((folder / "config.json").read_text()) | {"pretrained": pretrained}
    (folder / "config.json").write_text(json.dumps(content))


def metrics_of(online: float, knn: float) -> dict[str, float]:
    return {"loss": 1.0, "online_linear/val_top1": online, "knn/val_top1": knn}


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of the Markdown table."""
    lines = [line for line in report([folder]).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_seeds_and_their_evaluations_are_one_row_with_mean_and_sample_deviation(tmp_path: Path) -> None:
    for seed, online in enumerate((0.90, 0.92, 0.97)):
        write(tmp_path / f"s{seed}", PRETRAIN, metrics_of(online, 0.5), seed)
    write_linear(tmp_path / "l0", "/somewhere/trained_models/s0", 0.91)
    write_linear(tmp_path / "l1", "/somewhere/trained_models/s1/last.ckpt", 0.95)
    assert table(tmp_path) == [
        {
            "method": "simclr", "backbone": "resnet18", "data": "digits", "epochs": "12", "batch": "256", "T": "0.2",
            "head": "128", "multi-crop": "", "loader": "torchvision", "online": "93.0 +- 3.6 % (3)",
            "kNN": "50.0 +- 0.0 % (3)", "offline": "93.0 +- 2.8 % (2)", "run": "s0 + 4",
        }
    ]  # fmt: skip


def test_the_csv_has_one_number_per_cell_and_lists_every_run(tmp_path: Path) -> None:
    for seed, online in enumerate((0.90, 0.92, 0.97)):
        write(tmp_path / f"runs/s{seed}", PRETRAIN, metrics_of(online, 0.5), seed)
    main([str(tmp_path / "runs"), "--csv", str(tmp_path / "table.csv")])
    with (tmp_path / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    numbers = {name: row[name] for name in ("online", "online_std", "online_n", "offline", "offline_n", "runs")}
    assert numbers == {
        "online": "93", "online_std": "3.60555", "online_n": "3", "offline": "", "offline_n": "0", "runs": "s0 s1 s2",
    }  # fmt: skip


def test_runs_that_differ_are_not_averaged_and_the_difference_is_shown(tmp_path: Path) -> None:
    write(tmp_path / "a", PRETRAIN, metrics_of(0.9, 0.5))
    write(tmp_path / "b", PRETRAIN, metrics_of(0.8, 0.4), lr=0.1)
    write(tmp_path / "c", PRETRAIN, metrics_of(0.7, 0.3), temperature=0.5)
    write_linear(tmp_path / "d", "a", 0.91)
    write_linear(tmp_path / "e", "a", 0.92, protocol="cached")
    differences = {(row["run"], row["T"], row["online"], row["offline"]): row["also"] for row in table(tmp_path)}
    assert differences == {
        ("a + 1", "0.2", "90.0 %", "91.0 %"): "lr 0.3, linear protocol standard",
        ("a + 1", "0.2", "90.0 %", "92.0 %"): "lr 0.3, linear protocol cached",
        ("b", "0.2", "80.0 %", ""): "lr 0.1",
        ("c", "0.5", "70.0 %", ""): "",
    }


def test_a_typed_protocol_is_always_shown(tmp_path: Path) -> None:
    write(tmp_path / "a", PRETRAIN, metrics_of(0.9, 0.5))
    write_linear(tmp_path / "e", "a", 0.92, protocol="cached")
    assert [row["also"] for row in table(tmp_path)] == ["linear protocol cached"]


def test_an_evaluation_of_external_weights_has_its_own_row(tmp_path: Path) -> None:
    write_linear(tmp_path / "l", "/weights/moco.pth", 0.6)
    (row,) = table(tmp_path)
    assert (row["method"], row["backbone"], row["batch"], row["offline"]) == ("of moco.pth", "resnet18", "", "60.0 %")


@pytest.mark.parametrize("file", ["", "/last.ckpt", "/previous.ckpt", "/backbone.safetensors"])
def test_an_evaluation_of_any_file_of_a_run_is_in_the_row_of_the_run(tmp_path: Path, file: str) -> None:
    for name, lr, accuracy in (("a", 0.1, 0.6), ("b", 0.2, 0.7)):
        write(tmp_path / name, PRETRAIN, metrics_of(0.9, 0.5), lr=lr)
        write_linear(tmp_path / f"of_{name}", f"/somewhere/trained_models/{name}{file}", accuracy)
    assert [(row["run"], row["offline"]) for row in table(tmp_path)] == [("a + 1", "60.0 %"), ("b + 1", "70.0 %")]


def test_files_of_the_same_name_in_two_folders_are_two_rows_that_name_their_paths(tmp_path: Path) -> None:
    for method, accuracy in (("byol", 0.6), ("dino", 0.7)):
        for seed in (0, 1):
            write_linear(tmp_path / f"{method}{seed}", f"/w/{method}/checkpoint.pth", accuracy, seed)
    assert [(row["method"], row["also"], row["offline"]) for row in table(tmp_path)] == [
        ("of checkpoint.pth", "evaluates /w/byol/checkpoint.pth", "60.0 +- 0.0 % (2)"),
        ("of checkpoint.pth", "evaluates /w/dino/checkpoint.pth", "70.0 +- 0.0 % (2)"),
    ]


def test_of_two_runs_of_one_name_the_one_that_was_evaluated_has_the_evaluation(tmp_path: Path) -> None:
    for folder, lr in (("one", 0.1), ("two", 0.2)):
        write(tmp_path / folder / "run", PRETRAIN, metrics_of(0.9, 0.5), lr=lr)
        write_linear(tmp_path / folder / "linear", str(tmp_path / folder / "run"), lr)
    lines = [line for line in report([tmp_path / "one", tmp_path / "two"]).splitlines() if "resnet18" in line]
    assert [("lr 0.1" in line, "10.0 %" in line, "20.0 %" in line) for line in lines] == [
        (True, True, False),
        (False, False, True),
    ]


def test_the_newer_of_two_runs_with_the_same_flags_and_seed_counts(tmp_path: Path) -> None:
    write(tmp_path / "z", PRETRAIN, metrics_of(0.5, 0.5))
    write(tmp_path / "a", PRETRAIN, metrics_of(0.9, 0.5))
    assert [(row["run"], row["online"]) for row in table(tmp_path)] == [("a", "90.0 %")]
    assert report([tmp_path]).endswith("1 run older than another one with the same flags and seed")


def test_unfinished_runs_are_counted_and_unusable_folders_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "done", PRETRAIN, metrics_of(0.9, 0.5))
    for name in ("killed", "running"):
        write(tmp_path / name, PRETRAIN, None)
    (tmp_path / "latest").symlink_to("running")
    (tmp_path / "notes.txt").write_text("not a folder")
    for name, content in (
        ("broken", '{"config": '),
        ("foreign", '{"config": [1]}'),
        ("dry_run", None),
        ("older", OLDER_CONFIG),
    ):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "config.json").write_text(content)
    (tmp_path / "empty").mkdir()
    text, err = report([tmp_path]), capsys.readouterr().err
    assert len(text.splitlines()) == 5
    assert text.endswith("\n\n2 runs unfinished")
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        f"skipped {tmp_path / name}" for name in ("broken", "dry_run", "empty", "foreign", "older")
    ]


def test_the_order_of_writing_does_not_change_the_report(tmp_path: Path) -> None:
    for name, order in (("one", "abc"), ("two", "cba")):
        for letter in order:
            write(tmp_path / name / letter, PRETRAIN, metrics_of(0.9, 0.5), temperature=ord(letter) / 100)
    assert report([tmp_path / "one"]) == report([tmp_path / "two"])


def test_a_missing_folder_and_an_unwritable_csv_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folders: got .*missing"):
        main([str(tmp_path / "missing")])
    write(tmp_path / "runs/done", PRETRAIN, metrics_of(0.9, 0.5))
    with pytest.raises(UserError, match=r"--csv: got .*table.csv"):
        main([str(tmp_path / "runs"), "--csv", str(tmp_path / "missing/table.csv")])


def test_real_runs_are_joined_through_latest_without_importing_torch(run: Run, folder: Path) -> None:
    quick = ["digits", "resnet18", *TINY, "--max_steps", "2"]
    assert run("main_contrastive.py", *quick, "--run_id", "first")[0] == 0
    evaluate = ["digits", "resnet18", "--pretrained_feature_extractor", "trained_models/latest", "--max_steps", "1"]
    assert run("main_linear.py", *evaluate, "--run_id", "linear")[0] == 0
    assert run("main_contrastive.py", *quick, "--run_id", "second", "--seed", "1")[0] == 0  # `latest` now points to it
    code = "import sys; from cl import report; report.main(['trained_models']); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = [cell.strip() for cell in out.splitlines()[2].split("|")]
    summary = json.loads((folder / "trained_models/linear/summary.json").read_text())
    assert f"{100 * summary['offline_linear/val_top1']:.1f} %" in row
    assert "resnet18, width 4" in row
    assert "first + 2" in row
    assert "2 steps" in row
