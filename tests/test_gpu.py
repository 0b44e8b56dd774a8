"""Checks that need a GPU, skipped without one: pytest -m gpu."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cl.config.methods import METHODS
from tests.conftest import ROOT, Run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SMALL = ["digits", "resnet18", "--width", "16", "--max_steps", "6", "--knn_bank", "500"]


def losses(run: Run, name: str, *flags: str) -> list[float]:
    """The loss of each epoch of a short run on a GPU."""
    code, _, err = run("main_contrastive.py", *SMALL, "--accelerator", "gpu", "--run_id", name, *flags)
    assert (code, err) == (0, "")
    with Path("trained_models", name, "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_has_the_loss_of_float32(method: str, run: Run) -> None:
    """Only the first steps: later ones diverge."""
    full = losses(run, "full", "--method", method, "--max_steps", "2")
    for precision in ("16-mixed", "bf16-mixed"):
        half = losses(run, precision, "--method", method, "--max_steps", "2", "--precision", precision)
        assert half == pytest.approx(full, rel=0.05), precision


def test_a_compiled_backbone_has_the_loss_of_an_eager_one(run: Run) -> None:
    eager, compiled = losses(run, "eager"), losses(run, "compiled", "--compile")
    assert compiled == pytest.approx(eager, rel=1e-2)


def test_a_gpu_has_the_loss_of_a_cpu(run: Run) -> None:
    """With device augmentation, prefetch and channels last: the same images and views in the same order."""
    on_gpu = losses(run, "gpu", "--max_steps", "2")
    on_cpu = losses(run, "cpu", "--max_steps", "2", "--accelerator", "cpu")
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2)


def test_deterministic_runs_have_the_same_bits(run: Run) -> None:
    """With `--deterministic`. Each run is a process: cuBLAS reads its variable when torch starts."""
    for name in ("first", "second"):
        command = [sys.executable, str(ROOT / "main_contrastive.py"), *SMALL, "--deterministic", "--run_id", name]
        assert subprocess.run(command, capture_output=True).returncode == 0
    first, second = (Path("trained_models", name, "metrics.csv").read_bytes() for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("loader", ["fast", "torchvision", "dali"])
def test_every_loader_feeds_a_gpu(loader: str, run: Run) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    assert len(losses(run, loader, "--loader", loader)) > 0


def test_several_processes_on_a_gpu_compute_what_one_does() -> None:
    """With a single GPU, both processes share it."""
    command = [sys.executable, "-m", "cl.selfcheck", "--accelerator", "gpu"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
