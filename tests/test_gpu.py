"""Checks that need a GPU, skipped without one: pytest -m gpu."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from cl.backbones import timm
from cl.config.methods import METHODS
from cl.data.executors.workers import WorkerExecutor
from cl.data.images import ArraySet
from cl.data.kernels import obstacle
from cl.data.views.rows import RandomViews
from cl.data.views.spec import ViewSpec
from cl.losses import nt_xent_loss
from tests.conftest import ROOT, Run
from tests.pictures import plain
from tests.teachers import method_flags
from tests.test_executors import JITTER, batch_of, tiles

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SMALL = ["digits", "resnet18", "--width", "16", "--max_steps", "6", "--knn_bank", "500", "--precision", "32"]


def losses(run: Run, name: str, *flags: str) -> list[float]:
    """The loss of each epoch of a short run on a GPU."""
    code, _, err = run("main_contrastive.py", *SMALL, "--accelerator", "gpu", "--run_id", name, *flags)
    assert (code, err) == (0, "")
    with Path("trained_models", name, "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_has_the_loss_of_float32(method: str, run: Run) -> None:
    """Only the first steps: later ones diverge."""
    full = losses(run, "full", *method_flags(method), "--max_steps", "2")
    for precision in ("16-mixed", "bf16-mixed"):
        half = losses(run, precision, *method_flags(method), "--max_steps", "2", "--precision", precision)
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


def has_kernels() -> bool:
    return torch.cuda.is_available() and not obstacle(torch.device("cuda", 0))


@pytest.mark.skipif(not has_kernels(), reason="needs Triton")
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [32, 224])
def test_compiled_kernels_make_the_views_of_the_twin(size: int, channels: int) -> None:
    """To 1e-4 before normalisation, but for pixels that lie so close to solarize's threshold."""
    from cl.data.executors.fused import FusedResident, FusedWorkers

    images = ArraySet(tiles(max(size, 64), 8)[:, :channels].contiguous(), np.zeros(8, np.int64))
    spec = ViewSpec(size, blur_prob=0.5, solarize_prob=0.2, **JITTER)
    few = ViewSpec(16, (0.05, 0.3), solarize_prob=0.2, **JITTER)
    planner = RandomViews(((spec, spec), (few,) * 3), seed=3)
    plain = ((0.0,) * channels, (1.0,) * channels)
    expected = batch_of(WorkerExecutor(images, planner, plain, torch.device("cpu")), images)
    for fused in (FusedResident, FusedWorkers):
        batch = batch_of(fused(images, planner, plain, torch.device("cuda", 0)), images)
        assert torch.equal(batch.index.cpu(), expected.index)
        for ours, theirs in zip(batch.views, expected.views, strict=True):
            assert ((ours.cpu() - theirs).abs() > 1e-4).float().mean() < 1e-3


@pytest.mark.skipif(not has_kernels(), reason="needs Triton")
def test_images_of_several_sizes_lie_on_the_gpu_and_train_as_those_from_workers(run: Run) -> None:
    for number, (height, width) in enumerate([(40, 48), (60, 36), (32, 80), (48, 48)] * 8):
        path = Path("train") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        plain(number, height, width).save(path)
    flags = ["custom", "resnet18", "--train_dir", "train", "--crop_size", "32", "--batch_size", "8", "--width", "16"]
    flags += ["--max_steps", "2", "--accelerator", "gpu", "--precision", "32", "--deterministic"]
    for name, resident in (("resident", "on"), ("workers", "off")):
        code, out, err = run("main_contrastive.py", *flags, "--run_id", name, "--resident", resident)
        assert (code, err) == (0, "")
        assert ("all images lie on the GPU" in out) == (resident == "on")
    resident, workers = (Path("trained_models", name, "metrics.csv").read_bytes() for name in ("resident", "workers"))
    assert resident == workers


def test_several_processes_on_a_gpu_compute_what_one_does() -> None:
    """With a single GPU, both processes share it."""
    command = [sys.executable, "-m", "cl.selfcheck", "--accelerator", "gpu"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bf16_is_the_default_where_the_gpu_has_it(run: Run) -> None:
    assert run("main_contrastive.py", *SMALL[:-2], "--fast_dev_run", "--run_id", "default")[0] == 0
    config = json.loads(Path("trained_models/default/config.json").read_text())["config"]
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert config["device"]["precision"]["value"] == ("bf16-mixed" if has_bf16 else "32")


@pytest.mark.parametrize(("precision", "graphs"), [("32", "off"), ("bf16-mixed", "off"), ("bf16-mixed", "on")])
@pytest.mark.parametrize("method", METHODS)
def test_a_steady_step_never_waits_for_the_gpu(
    method: str, precision: str, graphs: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = _TrainingEpochLoop.advance
    steps = iter(range(1, 1000))

    def watched(self: _TrainingEpochLoop, *args: object) -> None:
        is_steady = 4 <= next(steps) <= 5
        torch.cuda.set_sync_debug_mode("error" if is_steady else "default")
        try:
            advance(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    losses(run, "watched", *method_flags(method), "--precision", precision, "--graphs", graphs)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimizer", [["sgd"], ["adam"], ["adamw"], ["sgd", "--lars"]])
def test_a_bad_step_is_undone_as_if_it_had_been_skipped(
    optimizer: list[str], precision: str, run: Run, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--optimizer", *optimizer, "--precision", precision, "--epochs", "1", "--scheduler", "none"]
    found = []
    for lag in (0, 2):
        with monkeypatch.context() as patch:
            patch.setattr("cl.run.train.skipped_steps.lag_on", lambda device, lag=lag: lag)
            spoil(1, 4, 5)
            name = f"{precision}-{lag}"
            code, _, err = run("main_contrastive.py", *SMALL, "--accelerator", "gpu", "--run_id", name, *flags)
            assert code == 0
            assert err.count("skipped: the views of image") == 3
            with Path("trained_models", name, "metrics.csv").open() as file:
                found.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_replayed_networks_have_the_losses_of_launched_ones(method: str, precision: str, run: Run) -> None:
    flags = [*method_flags(method), "--precision", precision, "--max_steps", "4"]
    replayed, launched = (losses(run, graphs, *flags, "--graphs", graphs) for graphs in ("on", "off"))
    assert replayed == pytest.approx(launched, rel=1e-3)


@pytest.mark.parametrize(
    "flags", [["--accumulate", "2"], ["--multicrop", "--small_crop_size", "6", "--n_small_crops", "2"], ["--compile"]]
)
def test_replays_hold_for_accumulation_small_crops_and_compiled_backbones(flags: list[str], run: Run) -> None:
    flags = [*flags, "--method", "byol", "--batch_size", "64", "--max_steps", "4"]
    replayed, launched = (losses(run, graphs, *flags, "--graphs", graphs) for graphs in ("on", "off"))
    assert replayed == pytest.approx(launched, rel=1e-3)


def test_replayed_dropout_draws_anew_in_each_step_and_the_same_in_each_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed of a step is read when its graphs are replayed: the draws are those of launched kernels."""
    create = timm.create

    def with_dropout(*args: Any, **options: Any) -> torch.nn.Module:
        network = create(*args, **options)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        return network

    monkeypatch.setattr(timm, "create", with_dropout)
    command = ["digits", "timm/vit_tiny_patch16_224", "--crop_size", "16", "--max_steps", "4", "--precision", "32"]
    found = []
    for name, graphs in (("on", "on"), ("again", "on"), ("off", "off")):
        assert run("main_contrastive.py", *command, "--graphs", graphs, "--run_id", name)[0] == 0
        with Path("trained_models", name, "metrics.csv").open() as file:
            found.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-3)


@pytest.mark.parametrize("batch", [512, 4096])
def test_nt_xent_needs_at_most_256_mb_beside_its_gradients(batch: int) -> None:
    z = torch.randn(2 * batch, 128, device="cuda", requires_grad=True)
    ids = torch.arange(batch, device="cuda").repeat(2)
    nt_xent_loss(z, ids, 0.1).backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    nt_xent_loss(z, ids, 0.1).backward()
    assert torch.cuda.max_memory_allocated() - before < 256e6
