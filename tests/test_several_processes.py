"""Runs of several processes from the command line: the numbers of one process, one output and a common end."""

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
# A rate of 0 for the backbone: rounding then changes no prediction.
PRETRAIN += ["--gaussian_prob", "0", "--epochs", "2", "--lr", "0", "--classifier_lr", "0.1"]
LINEAR = ["custom", "resnet18", *FOLDERS, *CPU, "--epochs", "1", "--pretrained_feature_extractor", "trained_models/one"]


def rows(folder: Path, run_id: str) -> list[dict[str, float]]:
    with (folder / f"trained_models/{run_id}/metrics.csv").open() as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 images for training and 101 for validation, which two or three processes cannot share equally."""
    folder = tmp_path_factory.mktemp("several")
    write_classes(folder / "train", {"a": 12, "b": 12, "c": 12})
    write_classes(folder / "val", {"a": 33, "b": 33, "c": 35})
    done = run_program(folder, "main_contrastive.py", *PRETRAIN, "--batch_size", "12", "--run_id", "one")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_program(folder, "main_linear.py", *LINEAR, "--batch_size", "12", "--run_id", "linear-one")
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("size", [2, 3])
def test_metrics_equal_those_of_one_process(images: Path, size: int) -> None:
    split = ["--devices", str(size), "--batch_size", str(12 // size)]
    flags = [*PRETRAIN, *split, "--run_id", f"of-{size}"]
    if size == 2:
        done = Command(images, "main_contrastive.py", *flags).wait()
    else:
        done = run_program(images, "main_contrastive.py", *flags, ranks=size)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("run folder") == 2  # one banner, one closing table
    assert f"{12 // size} x {size} processes = 12 images a step" in done.stdout
    assert done.stdout.count("epoch 1/2") == 1
    for row, expected in zip(rows(images, f"of-{size}"), rows(images, "one"), strict=True):
        assert row == pytest.approx(expected, rel=2e-4, abs=2e-5, nan_ok=True)
        for name in ("online_linear/val_top1", "knn/val_top1"):
            # The same number of the 101 images is classified correctly.
            assert row[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True)
    done = run_program(images, "main_linear.py", *LINEAR, *split, "--run_id", f"linear-of-{size}", ranks=size)
    assert (done.returncode, done.stderr) == (0, "")
    (row,), (expected,) = rows(images, f"linear-of-{size}"), rows(images, "linear-one")
    assert row["offline_linear/val_top1"] == pytest.approx(expected["offline_linear/val_top1"], abs=1e-6)
    assert row == pytest.approx(expected, rel=2e-4, abs=2e-5)


def test_the_cached_protocol_and_its_grid_equal_those_of_one_process(images: Path) -> None:
    flags = [*LINEAR, "--protocol", "cached", "--lr", "0.01", "0.3", "--weight_decay", "0", "0.1"]
    for size in (1, 2):
        split = ["--devices", str(size), "--batch_size", str(12 // size), "--run_id", f"cached-{size}"]
        done = run_program(images, "main_linear.py", *flags, *split, ranks=size)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("was the most accurate") == 1
    ((one_process,), (two_processes,)) = (rows(images, f"cached-{size}") for size in (1, 2))
    assert two_processes == pytest.approx(one_process, rel=2e-4, abs=2e-5)
    grids = [(images / f"trained_models/cached-{size}/grid.csv").read_text() for size in (1, 2)]
    assert grids[0] == grids[1]


def test_a_mistake_with_several_processes_prints_one_line(images: Path) -> None:
    done = Command(images, "main_contrastive.py", *PRETRAIN, "--devices", "2", "--batch_size", "19").wait()
    assert done.returncode == 2
    assert done.stderr.startswith("error: --batch_size: got 19 on 2 process(es)")
    assert done.stderr.count("\n") == 1


RAISES_ON_RANK_1 = """
import sys
sys.path.insert(0, {root!r})
import main_contrastive
from cl import cli
from cl.distributed import rank
from cl.methods.simclr import SimCLR

step = SimCLR.step
def broken(self, batch):
    if rank() == 1 and self.trainer.global_step == 1:
        raise RuntimeError("planted on rank 1")
    return step(self, batch)
SimCLR.step = broken
cli.run(main_contrastive.main)
"""


def test_a_rank_that_raises_ends_the_job_with_its_traceback(images: Path) -> None:
    (images / "broken.py").write_text(RAISES_ON_RANK_1.format(root=str(ROOT)))
    command = [sys.executable, "broken.py", *PRETRAIN, "--devices", "2", "--batch_size", "6"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    done = subprocess.run(command, cwd=images, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "planted on rank 1" in done.stderr
    assert "Traceback" in done.stderr
    assert time.monotonic() - start < 60  # mostly the start; a hang would last for gloo's timeout, half an hour


ENDS_AFTER_A_COLLECTIVE = """
import os, sys
sys.path.insert(0, {root!r})
import torch
from cl.distributed import connect, gather
from cl.run.start.processes import rank_environments

os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
for _ in range(3):
    ranks = []
    for environment in rank_environments(2):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            os.environ |= environment
            connect("gloo")
            gather(torch.zeros(4))  # now its threads have names
            for thread in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{{thread}}/comm") as name:
                    if "pt_gloo" in name.read():
                        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
            gather(torch.zeros(4))
            sys.exit(75)
    print(*(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the thread scheduling of Linux")
def test_a_rank_that_ends_directly_after_a_collective_keeps_its_exit_code() -> None:
    """Its gloo threads barely run: without `disconnect`, every second rank died of SIGABRT here."""
    script = ENDS_AFTER_A_COLLECTIVE.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("75 75\n" * 3, "")


def test_a_launcher_with_a_different_number_of_processes_is_refused(images: Path) -> None:
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}
    flags = [*PRETRAIN, "--devices", "2", "--batch_size", "6"]
    done = run_program(images, "main_contrastive.py", *flags, environment=variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --devices: got 2 on 1 node, expected the 4 processes")


@pytest.mark.slow
def test_selfcheck_confirms_that_two_processes_compute_what_one_does() -> None:
    done = subprocess.run([sys.executable, "-m", "cl.selfcheck"], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DIFFERENT" not in done.stdout
    assert done.stdout.rstrip().endswith("Several processes compute what one would.")


def test_slurms_variables_are_translated_to_torchruns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    expected = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "NODE_RANK": "1"}
    expected |= {"MASTER_ADDR": "node7", "MASTER_PORT": "24321"}
    for name in expected:  # monkeypatch restores them after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    slurm = {"PROCID": "5", "LOCALID": "1", "NTASKS": "8", "NODEID": "1", "JOB_ID": "4321", "JOB_NODELIST": "node[7-8]"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    processes._translate_slurm()
    assert {name: os.environ[name] for name in expected} == expected


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
