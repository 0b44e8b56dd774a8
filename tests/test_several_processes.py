"""Runs of several processes from the command line: the same numbers as one, one voice, and one end for all."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cl.run.start import processes
from tests.conftest import ROOT
from tests.pictures import write_classes
from tests.programs import Command, run_program

CPU = ["--accelerator", "cpu", "--num_workers", "0"]
FOLDERS = ["--train_dir", "train", "--val_dir", "val", "--crop_size", "16"]
PRETRAIN = ["custom", "resnet18", *FOLDERS, *CPU, "--width", "4", "--proj_hidden_dim", "16", "--proj_output_dim", "8"]
PRETRAIN += ["--gaussian_prob", "0", "--epochs", "2", "--lr", "0", "--classifier_lr", "0.1"]  # rounding flips no answer
LINEAR = ["custom", "resnet18", *FOLDERS, *CPU, "--epochs", "1", "--pretrained_feature_extractor", "trained_models/one"]


def rows(folder: Path, run_id: str) -> list[dict[str, float]]:
    with (folder / f"trained_models/{run_id}/metrics.csv").open() as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 images for training and 101 for validation, so that neither two nor three processes have equal shares."""
    folder = tmp_path_factory.mktemp("several")
    write_classes(folder / "train", {"a": 12, "b": 12, "c": 12})
    write_classes(folder / "val", {"a": 33, "b": 33, "c": 35})
    done = run_program(folder, "main_contrastive.py", *PRETRAIN, "--batch_size", "12", "--run_id", "one")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_program(folder, "main_linear.py", *LINEAR, "--batch_size", "12", "--run_id", "linear-one")
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("size", [2, 3])
def test_metrics_are_those_of_one_process(images: Path, size: int) -> None:
    share = ["--devices", str(size), "--batch_size", str(12 // size)]
    flags = [*PRETRAIN, *share, "--run_id", f"of-{size}"]
    if size == 2:
        done = Command(images, "main_contrastive.py", *flags).wait()
    else:
        done = run_program(images, "main_contrastive.py", *flags, ranks=size)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("run folder") == 2  # one banner, one closing table
    assert f"{12 // size} x {size} processes = 12 images a step" in done.stdout
    assert done.stdout.count("epoch 1/2") == 1
    for found, expected in zip(rows(images, f"of-{size}"), rows(images, "one"), strict=True):
        assert found == pytest.approx(expected, rel=2e-4, abs=2e-5, nan_ok=True)
        for name in ("online_linear/val_top1", "knn/val_top1"):
            assert found[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True)  # as many of 101 are right
    done = run_program(images, "main_linear.py", *LINEAR, *share, "--run_id", f"linear-of-{size}", ranks=size)
    assert (done.returncode, done.stderr) == (0, "")
    (found,), (expected,) = rows(images, f"linear-of-{size}"), rows(images, "linear-one")
    assert found["offline_linear/val_top1"] == pytest.approx(expected["offline_linear/val_top1"], abs=1e-6)
    assert found == pytest.approx(expected, rel=2e-4, abs=2e-5)


def test_cached_features_and_the_grid_on_them_are_those_of_one_process(images: Path) -> None:
    flags = [*LINEAR, "--protocol", "cached", "--lr", "0.01", "0.3", "--weight_decay", "0", "0.1"]
    for size in (1, 2):
        share = ["--devices", str(size), "--batch_size", str(12 // size), "--run_id", f"cached-{size}"]
        done = run_program(images, "main_linear.py", *flags, *share, ranks=size)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("was the most accurate") == 1
    ((alone,), (both,)) = (rows(images, f"cached-{size}") for size in (1, 2))
    assert both == pytest.approx(alone, rel=2e-4, abs=2e-5)
    grids = [(images / f"trained_models/cached-{size}/grid.csv").read_text() for size in (1, 2)]
    assert grids[0] == grids[1]


def test_a_mistake_is_one_line_from_several_processes_too(images: Path) -> None:
    done = Command(images, "main_contrastive.py", *PRETRAIN, "--devices", "2", "--batch_size", "19").wait()
    assert done.returncode == 2
    assert done.stderr.startswith("error: --batch_size: got 19 on 2 process(es)")
    assert done.stderr.count("\n") == 1


BROKEN = """
import sys
sys.path.insert(0, {root!r})
import main_contrastive
from cl import cli
from cl.distributed import rank
from cl.methods.simclr import SimCLR

step = SimCLR.step
def broken(self, features, batch):
    if rank() == 1 and self.trainer.global_step == 1:
        raise RuntimeError("planted on rank 1")
    return step(self, features, batch)
SimCLR.step = broken
cli.run(main_contrastive.main)
"""


def test_a_rank_that_raises_ends_the_job_with_its_traceback(images: Path) -> None:
    (images / "broken.py").write_text(BROKEN.format(root=str(ROOT)))
    command = [sys.executable, "broken.py", *PRETRAIN, "--devices", "2", "--batch_size", "6"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(command, cwd=images, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "planted on rank 1" in done.stderr
    assert "Traceback" in done.stderr
    assert time.monotonic() - began < 60  # starting takes most of it; a hang would be gloo's half hour


HURRIED = """
import os, sys
sys.path.insert(0, {root!r})
import torch
from cl.distributed import connect, gather
from cl.run.start.processes import rank_environments

os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
for round in range(3):
    ranks = []
    for environment in rank_environments(2):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            os.environ |= environment
            connect("gloo")
            gather(torch.zeros(4))  # its threads have their names now
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{{thread}}/comm") as name:
                    if "pt_gloo" in name.read():
                        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
            gather(torch.zeros(4))
            sys.exit(75)
    print(*(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="schedules threads as Linux does")
def test_a_rank_that_ends_directly_after_a_collective_has_its_own_exit_code() -> None:
    """Its gloo threads hardly run: without `disconnect` every other rank died of SIGABRT here."""
    script = HURRIED.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("75 75\n" * 3, "")


def test_a_launcher_that_started_another_number_of_processes_is_named(images: Path) -> None:
    several = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}
    flags = [*PRETRAIN, "--devices", "2", "--batch_size", "6"]
    done = run_program(images, "main_contrastive.py", *flags, environment=several)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --devices: got 2 on 1 node(s), expected the 4 processes")


def test_selfcheck_says_that_two_processes_compute_what_one_would() -> None:
    done = subprocess.run([sys.executable, "-m", "cl.selfcheck"], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DIFFERENT" not in done.stdout
    assert done.stdout.rstrip().endswith("Several processes compute what one would.")


def test_slurms_words_become_torchruns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "NODE_RANK": "1"}
    made |= {"MASTER_ADDR": "node7", "MASTER_PORT": "24321"}
    for name in made:  # so that they are put back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    slurm = {"PROCID": "5", "LOCALID": "1", "NTASKS": "8", "NODEID": "1", "JOB_ID": "4321", "JOB_NODELIST": "node[7-8]"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    processes._translate_slurm()
    assert {name: os.environ[name] for name in made} == made


def test_torchrun_starts_the_processes_of_a_recipe(images: Path) -> None:
    recipe = images / "recipe.sh"
    recipe.write_text(f'exec {sys.executable} {ROOT}/main_contrastive.py {" ".join(PRETRAIN)} --batch_size 6 "$@"\n')
    command = ["bash", str(ROOT / "bash_files/torchrun.sh"), str(recipe), "--fast_dev_run", "--run_id", "torchrun"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GPUS": "2", "PORT": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(command, cwd=images, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "6 x 2 processes = 12 images a step" in done.stdout
    assert done.stdout.count("epoch 1/1") == 1
