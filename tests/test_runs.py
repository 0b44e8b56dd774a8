"""The programs, from the command line to the run folder."""

import csv
import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cl.run.folder.run_folder import point_latest
from tests.conftest import ROOT, TINY, Run
from tests.pictures import write_classes

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
QUICK = ["digits", "resnet18", *TINY]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pretrained(run: Run, folder: Path) -> Path:
    """A run folder of two short epochs."""
    code, _, err = run(PRETRAIN, *QUICK, "--epochs", "2", "--run_id", "first")
    assert (code, err) == (0, "")
    return folder / "trained_models/first"


def test_a_run_writes_its_folder_and_prints_the_next_command(run: Run, folder: Path) -> None:
    code, out, err = run(PRETRAIN, *QUICK, "--epochs", "2", "--knn_every", "1")
    assert (code, err) == (0, "")
    (run_folder,) = [path for path in (folder / "trained_models").iterdir() if not path.is_symlink()]
    assert {path.name for path in run_folder.iterdir()} == {
        "backbone.json", "backbone.safetensors", "config.json", "curves.png", "embedding.json", "embedding.png",
        "last.ckpt", "metrics.csv", "neighbours.png", "previous.ckpt", "summary.json", "timing.csv", "views.png",
    }  # fmt: skip
    assert os.readlink(folder / "trained_models/latest") == run_folder.name
    assert "1437 for training, 360 for validation, 10 classes" in out
    assert "64 x 1 process = 64 images a step" in out
    assert "22 an epoch, 44 in all" in out
    assert "0.001 per 256 images, 0.00025 after scaling (adamw, warmup_cosine, 4 steps of warm-up)" in out
    assert "typed               dataset digits, batch_size 64, encoder resnet18, width 4" in out
    assert "digits preset" in out
    assert out.count("images/s\n") == 2  # a line for each epoch
    summary = json.loads((run_folder / "summary.json").read_text())
    assert f"{100 * summary['online_linear/val_top1']:.1f} %" in out
    assert f"{100 * summary['knn/val_top1']:.1f} %" in out
    assert (
        out.rstrip()
        .splitlines()[-1]
        .endswith(f"main_linear.py digits resnet18 --pretrained_feature_extractor trained_models/{run_folder.name}")
    )


def test_the_reduce_schedule_keeps_its_state_in_the_checkpoint(run: Run, folder: Path) -> None:
    flags = ["--epochs", "2", "--scheduler", "reduce", "--run_id", "reduced", "--max_steps", "44"]
    code, _, err = run(PRETRAIN, *QUICK, *flags)
    assert (code, err) == (0, "")
    saved = torch.load(folder / "trained_models/reduced/last.ckpt", weights_only=True)["lr_schedulers"][0]
    losses = [float(row["loss"]) for row in table(folder / "trained_models/reduced/metrics.csv")]
    assert saved["last_epoch"] == 2
    assert saved["best"] == pytest.approx(min(losses), rel=1e-5)


def test_metrics_have_a_row_per_epoch_and_nothing_timed(pretrained: Path) -> None:
    rows = table(pretrained / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["22", "44"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert rows[0]["knn/val_top1"] == ""  # due after the last epoch only
    assert 0 < float(rows[1]["knn/val_top1"]) <= 1
    timing = table(pretrained / "timing.csv")
    assert float(timing[0]["images_per_second"]) > 0
    assert 0 <= float(timing[0]["waiting_share"]) < 1


def test_config_json_records_the_command_the_versions_and_the_flags(pretrained: Path) -> None:
    record = json.loads((pretrained / "config.json").read_text())
    assert record["schema"] == 1
    assert record["argv"] == shlex.join([*QUICK, "--epochs", "2", "--run_id", "first"])
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"].startswith("CPU, ")
    assert record["config"]["run"]["epochs"] == {"value": 2, "origin": "typed"}
    assert record["config"]["optim"]["lr"] == {"value": 1e-3, "origin": "digits preset"}
    assert record["config"]["method"]["temperature"] == {"value": 0.2, "origin": "default"}


def test_a_checkpoint_holds_tensors_and_plain_python_and_the_trained_weights(pretrained: Path) -> None:
    checkpoint = torch.load(pretrained / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 44
    assert checkpoint["cl"]["schema"] == 1
    assert checkpoint["cl"]["classes"] == tuple("0123456789")
    assert checkpoint["cl"]["config"]["backbone"]["width"] == 4
    assert checkpoint["state_dict"]["backbone.bn1.num_batches_tracked"] == 44
    assert not list(pretrained.glob(".*"))


def test_the_same_seed_gives_the_same_run_and_another_seed_a_different_one(run: Run, folder: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run(PRETRAIN, *QUICK, "--max_steps", "3", "--seed", seed, "--run_id", name)[0] == 0
    a, b, c = ((folder / f"trained_models/{name}/metrics.csv").read_text() for name in "abc")
    assert a == b
    assert a != c


def test_the_number_of_workers_does_not_change_the_metrics(run: Run, folder: Path) -> None:
    for workers in ("0", "2"):
        flags = [*QUICK, "--epochs", "2", "--batch_size", "400", "--num_workers", workers, "--run_id", workers]
        assert run(PRETRAIN, *flags)[0] == 0
    without_workers, with_workers = ((folder / f"trained_models/{name}/metrics.csv").read_text() for name in "02")
    assert without_workers == with_workers


def test_deterministic_reaches_torch(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    calls: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, **options: calls.append(on))
    assert run(PRETRAIN, *QUICK, "--fast_dev_run", "--deterministic")[0] == 0
    assert calls == [True]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_second_run_leaves_the_first_ones_folder_untouched(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *QUICK, "--fast_dev_run")[0] == 0
    (first,) = [path for path in (folder / "trained_models").iterdir() if not path.is_symlink()]
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in first.iterdir()}
    assert run(PRETRAIN, *QUICK, "--fast_dev_run")[0] == 0
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in first.iterdir()} == before
    assert len([path for path in (folder / "trained_models").iterdir() if not path.is_symlink()]) == 2
    assert os.readlink(folder / "trained_models/latest") != first.name


def test_an_output_dir_without_symlinks_costs_one_warning(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT has none, nor have some shares."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    code, _, err = run(PRETRAIN, *QUICK, "--max_steps", "4", "--checkpoint_every_n_steps", "1", "--run_id", "run")
    assert (code, err.count("\n")) == (0, 1)
    assert "warning: trained_models/latest does not point to this run (Operation not permitted)" in err
    assert (folder / "trained_models/run/backbone.safetensors").is_file()


def test_a_link_that_a_killed_process_has_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / f".latest-{os.getpid()}"
    left.symlink_to("nowhere")
    point_latest(tmp_path / "run")
    assert os.readlink(tmp_path / "latest") == "run"
    assert not left.is_symlink()


def test_an_existing_run_id_is_refused(run: Run, pretrained: Path) -> None:
    before = (pretrained / "last.ckpt").read_bytes()
    code, out, err = run(PRETRAIN, *QUICK, "--run_id", "first")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--run_id: got first" in err
    assert (pretrained / "last.ckpt").read_bytes() == before


def test_max_steps_ends_a_run_within_an_epoch_with_an_evaluation(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *QUICK, "--max_steps", "25", "--run_id", "short")[0] == 0
    rows = table(folder / "trained_models/short/metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "22"), ("2", "25")]
    assert rows[1]["online_linear/val_top1"]
    assert rows[1]["knn/val_top1"]
    assert torch.load(folder / "trained_models/short/last.ckpt", weights_only=True)["global_step"] == 25


def test_each_epoch_reads_the_order_of_that_epoch(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl.data.executors.resident import PlannedBatch, ResidentExecutor
    from cl.data.sampler import SampleKey
    from cl.data.views.rows import RandomViews

    epochs: list[int] = []
    original = ResidentExecutor.read

    def recording_read(self: ResidentExecutor, keys: list[SampleKey]) -> PlannedBatch:
        if len(keys) == 700 and isinstance(self.planner, RandomViews):  # the diagnostics' batches have other sizes
            epochs.append(keys[0][0])
        return original(self, keys)

    monkeypatch.setattr(ResidentExecutor, "read", recording_read)
    assert run(PRETRAIN, *QUICK, "--epochs", "3", "--batch_size", "700")[0] == 0
    assert epochs == [0, 0, 1, 1, 2, 2]


def test_flags_without_effect_are_named(run: Run, folder: Path) -> None:
    write_classes(folder, {"flat": 70})
    flags = ["--lars_eta", "0.1", "--n_small_crops", "2", "--supervised", "--crop_size", "16", "--gaussian_prob", "0"]
    code, out, err = run(PRETRAIN, "custom", "resnet18", "--train_dir", "flat", *TINY, *flags, "--dry_run")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "--lars_eta has no effect without --lars" in text
    assert "--n_small_crops has no effect without --multicrop" in text
    assert "supcon needs labels, but the images have none" in text


def test_dry_run_prints_its_measurements_and_trains_nothing(run: Run, folder: Path) -> None:
    for flags in (QUICK, [*QUICK, "--batch_size", "1000"]):  # the second one overwrites the first
        code, out, err = run(PRETRAIN, *flags, "--dry_run")
        assert (code, err) == (0, "")
    assert "437 of the images; --last_batch_fill" in out
    assert "one step: loss" in out
    assert "(median of 3)" in out  # an epoch has one step, so these are of several epochs
    assert [path.name for path in (folder / "trained_models").iterdir()] == ["dry_run"]
    assert {path.name for path in (folder / "trained_models/dry_run").iterdir()} == {"config.json", "views.png"}


def test_linear_evaluation_changes_neither_the_backbone_nor_latest(run: Run, pretrained: Path) -> None:
    flags = ["digits", "resnet18", "--pretrained_feature_extractor", "trained_models/latest", "--lr", "1"]
    code, out, err = run(LINEAR, *flags, "--run_id", "linear")
    assert (code, err) == (0, "")
    assert "offline linear" in out
    assert os.readlink(pretrained.parent / "latest") == "first"
    before, after = (
        torch.load(pretrained.parent / name / "last.ckpt", weights_only=True) for name in ("first", "linear")
    )
    frozen = {key: w for key, w in before["state_dict"].items() if key.startswith("backbone.")}
    assert frozen
    assert all(torch.equal(after["state_dict"][key], w) for key, w in frozen.items())
    summary = json.loads((pretrained.parent / "linear/summary.json").read_text())
    assert summary["offline_linear/val_top1"] > 0.3
    assert summary["offline_linear/val_top5"] > summary["offline_linear/val_top1"]


def test_linear_evaluation_refuses_another_encoder(run: Run, pretrained: Path) -> None:
    code, _, err = run(LINEAR, "digits", "resnet50", "--pretrained_feature_extractor", str(pretrained))
    assert (code, err.count("\n")) == (2, 1)
    assert "encoder: got resnet50, expected resnet18" in err


def test_the_next_command_works_as_printed(folder: Path) -> None:
    start = [sys.executable, str(ROOT / PRETRAIN), *QUICK, "--fast_dev_run", "--output_dir", "my runs"]
    out = subprocess.run(start, capture_output=True, text=True, check=True).stdout
    command = out.rstrip().splitlines()[-1]
    done = subprocess.run([*shlex.split(command), "--fast_dev_run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "offline linear" in done.stdout
    assert sorted(path.name[:6] for path in (folder / "my runs").iterdir()) == ["latest", "linear", "simclr"]
