"""The Triton kernels make the views of the torch path, in few launches; here by Triton's interpreter, without a GPU."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torchvision.transforms.v2 import functional as F

from cl.config.data import DataConfig
from cl.config.views import Size
from cl.data.datamodule import ImageData
from cl.data.executors.packing import Packed
from cl.data.executors.resident import ResidentExecutor
from cl.data.executors.resident_images import ResidentSet, is_resident, onto_device
from cl.data.executors.workers import WorkerExecutor, crop_view
from cl.data.images import ArraySet, ImageSet, Splits, Subset
from cl.data.kernels import attempt, obstacle
from cl.data.sampler import RankSlice
from cl.data.settings import LoaderSettings
from cl.data.views.rows import CentreView, RandomViews, ViewPlanner
from cl.data.views.spec import EvalSpec, Norm, Views, ViewSpec
from cl.errors import UserError
from tests.conftest import ROOT, Run
from tests.kills import differences
from tests.pictures import plain
from tests.test_executors import CPU, IMAGENET, JITTER, batch_of, photographs, tiles
from tests.test_resume import break_off

pytest.importorskip("triton")
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TRITON_INTERPRET", "1")  # read where a kernel is defined
    from triton.runtime.interpreter import GridExecutor

    from cl.data.executors.fused import FusedDali, FusedResident, FusedWorkers

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs the compiled kernels")
GREY: Norm = ((0.5,), (0.25,))
NEAR = 1e-4  # of solarize's threshold, where either side is right


def small(channels: int, count: int) -> ArraySet:
    images = tiles(32, count)
    return ArraySet(images if channels == 3 else F.rgb_to_grayscale(images), np.arange(count) % 5)


def all_operations(size: Size, small_size: Size | None = None, solarize: float = 0.3) -> RandomViews:
    """Two views of `size` that differ in blur, hue and solarize, and three small ones."""
    first = ViewSpec(size, blur_prob=0.5, **JITTER)
    second = ViewSpec(size, blur_prob=0.1, solarize_prob=solarize, **(JITTER | {"hue": 0.0}))
    resolutions: Views = ((first, second),)
    if small_size:
        resolutions += (tuple(ViewSpec(small_size, (0.05, 0.3), solarize_prob=solarize, **JITTER) for _ in range(3)),)
    return RandomViews(resolutions, seed=3)


def same_views(fused: Any, twin: Any, images: ImageSet, planner: RandomViews, norm: Norm) -> None:
    """The fused executor's batch is the twin's, to 1e-5 before normalisation."""
    ours = batch_of(fused(images, planner, norm, CPU), images)
    theirs = batch_of(twin(images, planner, norm, CPU), images)
    before = batch_of(twin(images, without_solarize(planner), norm, CPU), images)
    assert torch.equal(ours.index, theirs.index)
    assert torch.equal(ours.target, theirs.target)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in norm)
    for a, b, unsolarized in zip(ours.views, theirs.views, before.views, strict=True):
        assert a.shape == b.shape
        clear = (unsolarized * std + mean - 128 / 255).abs() > NEAR
        assert clear.float().mean() > 0.98
        assert (((a - b) * std).abs() * clear).max() <= 1e-5


def without_solarize(planner: RandomViews) -> RandomViews:
    specs = (tuple(ViewSpec(**(vars(spec) | {"solarize_prob": 0.0})) for spec in same) for same in planner.views)
    return RandomViews(tuple(specs), planner.seed)


@pytest.mark.parametrize("norm", [IMAGENET, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize(("fused", "twin"), [(FusedResident, ResidentExecutor), (FusedWorkers, WorkerExecutor)])
def test_the_kernels_make_the_views_of_the_twin(fused: Any, twin: Any, norm: Norm) -> None:
    same_views(fused, twin, small(len(norm[0]), 12), all_operations(32, 16), norm)


@pytest.mark.parametrize(("fused", "twin"), [(FusedResident, ResidentExecutor), (FusedWorkers, WorkerExecutor)])
def test_the_kernels_make_views_that_are_not_square(fused: Any, twin: Any) -> None:
    same_views(fused, twin, small(3, 4), all_operations((24, 40), (20, 16)), IMAGENET)


def test_dalis_crops_get_the_colours_of_the_twin() -> None:
    pytest.importorskip("nvidia.dali")
    from cl.data.executors.dali import DaliExecutor

    def fused(images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> FusedDali:
        return FusedDali(images, planner, norm, device, CPU, threads=1)

    def twin(images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> DaliExecutor:
        return DaliExecutor(images, planner, norm, device, CPU, threads=1)

    same_views(fused, twin, small(3, 6), all_operations(32, 16), IMAGENET)


def test_large_views_have_several_tiles_and_a_wide_blur() -> None:
    images = ArraySet(photographs()[:1, :, :256, :300].contiguous(), np.zeros(1, np.int64))
    spec = ViewSpec(224, blur_prob=1.0, solarize_prob=0.5, **(JITTER | {"jitter_prob": 1.0}))
    same_views(FusedWorkers, WorkerExecutor, images, RandomViews(((spec,),), seed=0), IMAGENET)


class Mixed:
    """An ImageSet of images of different sizes."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        self.images = [photographs()[i % 2, :, :height, :width] for i, (height, width) in enumerate(shapes)]
        self.targets = np.zeros(len(shapes), np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def open(self, index: int) -> Any:
        from cl.data.decoding.decode import LazyImage

        return LazyImage(*self.images[index].shape[1:], lambda: self.read(index))

    def encoded(self, index: int) -> Any:
        raise NotImplementedError


SHAPES = [(1, 1), (1, 300), (400, 2), (33, 57), (64, 85), (120, 160)]


@pytest.mark.parametrize(
    "planner",
    [
        RandomViews(((ViewSpec(24, (0.05, 1.0)),) * 2, (ViewSpec(9, (0.02, 0.1)),)), seed=1),
        CentreView(EvalSpec(24)),
        CentreView(EvalSpec(72)),  # resized to 82
        RandomViews(((ViewSpec((12, 24), (0.05, 1.0)),),), seed=1),
        CentreView(EvalSpec((24, 72))),
        CentreView(EvalSpec(24, 26, "bicubic")),
    ],
    ids=["crops", "centre", "window of the centre", "wide crops", "wide centre", "bicubic"],
)
def test_cut_is_torchs_resize_to_the_integer(planner: ViewPlanner) -> None:
    images = Mixed(SHAPES)
    resident = onto_device(images, CPU, room=1 << 30, workers=0)
    plain: Norm = ((0.0,) * 3, (1 / 255,) * 3)
    batch = batch_of(FusedResident(resident, planner, plain, CPU), images)
    sizes = np.array(SHAPES)
    for views, rows in zip(batch.views, planner.rows(1, np.arange(len(SHAPES)), sizes), strict=True):
        flat = views.flatten(0, 1).round()
        for row in range(len(flat)):
            expected = crop_view(images.read(row % len(images)), rows.crops, row, rows.size, rows.interpolation)
            assert torch.equal(flat[row], expected.float()), (row, SHAPES[row % len(images)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_views_of_another_type_are_the_rounded_ones(dtype: torch.dtype) -> None:
    images = small(3, 4)
    planner = all_operations(32)
    full = batch_of(FusedResident(images, planner, IMAGENET, CPU), images).views[0]
    executor = FusedResident(images, planner, IMAGENET, CPU)
    executor.dtype = dtype
    views = batch_of(executor, images).views[0]
    # The interpreter cuts bits off for bfloat16; the compiled code rounds, as `compiled` below checks.
    rounded = (full.view(torch.int32) >> 16 << 16).view(torch.float32) if dtype is torch.bfloat16 else full
    assert torch.equal(views, rounded.to(dtype))
    assert views[0].is_contiguous(memory_format=torch.channels_last)


class Launches(TorchDispatchMode):
    """Counts the operations of torch that launch something."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and not func.overloadpacket.__name__.startswith("empty")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The launches of kernels and the copies to the device since the start of the test."""
    found = {"kernels": 0, "copies": 0}
    launch, copy = GridExecutor.__call__, Packed.to

    def launched(self: Any, *args: Any, **options: Any) -> Any:
        found["kernels"] += 1
        with _disable_current_modes():
            return launch(self, *args, **options)

    def copied(self: Packed, device: torch.device) -> Packed:
        found["copies"] += 1
        return copy(self, device)

    monkeypatch.setattr(GridExecutor, "__call__", launched)
    monkeypatch.setattr(Packed, "to", copied)
    return found


@pytest.mark.parametrize("fused", [FusedResident, FusedWorkers])
@pytest.mark.parametrize(("small_views", "most"), [(0, 6), (6, 12)], ids=["two views", "eight views"])
def test_a_batch_costs_few_launches_and_one_copy(
    fused: Any, small_views: int, most: int, counts: dict[str, int]
) -> None:
    images = small(3, 2)
    full = ViewSpec(32, blur_prob=0.5, solarize_prob=0.2, **JITTER)
    few = ViewSpec(16, blur_prob=0.5, solarize_prob=0.2, **JITTER)
    views: Views = ((full, full),) + (((few,) * small_views,) if small_views else ())
    executor = fused(images, RandomViews(views, seed=0), IMAGENET, CPU)
    keys = [(0, 0), (0, 1)]
    executor.to_batch(executor.read(keys))  # tables and norm are copied once
    counts.update(kernels=0, copies=0)
    read = executor.read(keys)
    with Launches() as of_torch:
        executor.to_batch(read)
    assert counts["copies"] == 1
    assert of_torch.count == (fused is FusedWorkers)  # which copies index and target
    assert counts["kernels"] == len(views) * (4 if fused is FusedResident else 3)
    assert counts["kernels"] + of_torch.count <= most


@pytest.mark.parametrize("fused", [FusedResident, FusedWorkers])
def test_who_keeps_the_index_and_target_of_a_batch_keeps_no_pixels(fused: Any) -> None:
    """Evaluation keeps those of all batches: with their pixels, those of ImageNet would have 190 GB."""
    images = small(3, 8)
    batch = batch_of(fused(images, all_operations(32), IMAGENET, CPU), images)
    for kept in (batch.index, batch.target):
        assert kept.untyped_storage().nbytes() < 300 * len(images)


def test_a_resident_set_reads_as_its_source() -> None:
    images = Mixed(SHAPES)
    resident = onto_device(images, CPU, room=1 << 30, workers=2)
    assert isinstance(resident, ResidentSet)
    assert all(torch.equal(resident.read(i), images.read(i)) for i in range(len(images)))
    lying = resident.on_device
    for i, (begin, (height, width)) in enumerate(zip(lying.begins, lying.sizes, strict=True)):
        pixels = lying.pixels[begin : begin + 3 * height * width].view(3, height, width)
        assert torch.equal(pixels, images.read(i))


def test_a_subset_of_a_subset_is_resident_too() -> None:
    images = onto_device(Mixed(SHAPES), CPU, room=1 << 30, workers=0)
    chosen = Subset(Subset(images, np.array([5, 3, 1])), np.array([2, 0]))
    assert is_resident(chosen)
    planner = RandomViews(((ViewSpec(16),) * 2,), seed=0)
    ours = batch_of(FusedResident(chosen, planner, IMAGENET, CPU), chosen)
    theirs = batch_of(FusedWorkers(chosen, planner, IMAGENET, CPU), chosen)
    assert torch.equal(ours.views[0], theirs.views[0])


def test_memory_that_is_taken_meanwhile_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def full(*args: Any, **options: Any) -> Tensor:
        if "device" in options:
            raise torch.OutOfMemoryError
        return empty(*args, **options)

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match=r"^--resident: [\d.]+ MiB of images do not fit beside what else is on the GPU"):
        onto_device(Mixed(SHAPES), CPU, room=1 << 30, workers=0)


# Whole runs, with the kernels under the interpreter.


RUN = ["custom", "resnet18", "--train_dir", "train", "--val_dir", "train", "--crop_size", "16", "--batch_size", "4"]
RUN += ["--width", "4", "--proj_hidden_dim", "16", "--max_steps", "2", "--num_workers", "0", "--accelerator", "cpu"]


@pytest.fixture
def on_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a CPU pass for a GPU with Triton, and images of several sizes lie in `train`."""
    for number, (height, width) in enumerate([(20, 24), (30, 18), (16, 40), (24, 24)] * 2):
        path = folder / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        plain(number, height, width).save(path)

    def with_memory(free: int) -> None:
        monkeypatch.setattr("cl.data.datamodule.obstacle", lambda device: "")
        monkeypatch.setattr("cl.data.datamodule.free_memory", lambda device: free)

    return with_memory


def metrics(name: str) -> bytes:
    return Path("trained_models", name, "metrics.csv").read_bytes()


def test_images_on_the_gpu_train_as_those_from_workers(run: Run, on_gpu: Callable[..., None]) -> None:
    """To the bit; and as the torch path does, up to the rounding of the kernels."""
    assert run("main_contrastive.py", *RUN, "--run_id", "torch")[0] == 0
    on_gpu(1 << 40)
    code, out, err = run("main_contrastive.py", *RUN, "--run_id", "resident")
    assert (code, err) == (0, "")
    assert "loader              fast: all images lie on the CPU, no workers\n" in out
    code, out, err = run("main_contrastive.py", *RUN, "--run_id", "read", "--resident", "off")
    assert (code, err) == (0, "")
    assert "loader              fast, 0 workers\n" in out
    assert metrics("resident") == metrics("read")
    ours, twins = (list(csv.DictReader(metrics(name).decode().splitlines())) for name in ("resident", "torch"))
    for row, twin in zip(ours, twins, strict=True):
        assert float(row["loss"]) == pytest.approx(float(twin["loss"]), rel=1e-4)


def test_a_resumed_run_with_kernels_has_the_same_bits(
    run: Run, on_gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu(1 << 40)
    assert run("main_contrastive.py", *RUN, "--run_id", "whole")[0] == 0
    saving = ["--run_id", "parts", "--checkpoint_every_n_steps", "1"]
    break_off(run, monkeypatch, 1, "main_contrastive.py", *RUN, *saving)
    assert run("main_contrastive.py", *RUN, *saving, "--resume_training_from", "auto")[0] == 0
    assert not differences(Path("trained_models/whole"), Path("trained_models/parts"))


@pytest.mark.parametrize("free", [20_000, 5_000], ids=["all were looked at", "a few were"])
def test_images_that_would_leave_too_little_memory_are_read_by_workers(
    free: int, run: Run, on_gpu: Callable[..., None]
) -> None:
    on_gpu(free)
    code, out, _ = run("main_contrastive.py", *RUN, "--fast_dev_run")
    assert code == 0
    assert re.search(
        r"fast, 0 workers; 8 images have (about )?[\d.]+ MiB, with room for [\d.]+ MiB", " ".join(out.split())
    )


def test_images_that_do_not_fit_are_refused_where_they_are_wanted_on_the_gpu(
    run: Run, on_gpu: Callable[..., None]
) -> None:
    on_gpu((2 << 30) + 10_000)
    code, _, err = run("main_contrastive.py", *RUN, "--fast_dev_run", "--resident", "on")
    assert code == 2
    assert re.search(r"--resident: got on, but 8 images have [\d.]+ MiB, with room for [\d.]+ MiB; expected off", err)


def test_images_of_several_sizes_are_refused_where_no_kernel_can_cut_them(
    run: Run, on_gpu: Callable[..., None]
) -> None:
    code, _, err = run("main_contrastive.py", *RUN, "--fast_dev_run", "--resident", "on")
    assert code == 2
    assert "--resident: got on, but the images are not small ones of one size, and for others the kernels need a" in err


def test_a_dry_run_says_how_much_memory_the_images_take(run: Run, on_gpu: Callable[..., None]) -> None:
    on_gpu(1 << 40)
    code, out, _ = run("main_contrastive.py", *RUN, "--dry_run")
    assert code == 0
    assert re.search(r"resident +[\d.]+ MiB on the CPU\n", out)


# What the kernels need.


@pytest.mark.parametrize(
    ("installed", "capability", "failure", "said"),
    [
        (False, (9, 0), None, "Triton is not installed"),
        (True, (6, 1), None, "Triton needs a GPU of compute capability 7.0"),
        (True, (9, 0), RuntimeError("Failed to find C compiler.\nSpecify one"), "Triton fails: Failed to find C"),
        (True, (9, 0), None, ""),
    ],
)
def test_what_keeps_the_kernels_from_running_is_named(
    installed: bool,
    capability: tuple[int, int],
    failure: Exception | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attempt(device: torch.device) -> None:
        if failure:
            raise failure

    monkeypatch.setattr("cl.data.kernels.find_spec", lambda name: installed or None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr("cl.data.kernels.attempt", attempt)
    found = obstacle.__wrapped__(torch.device("cuda", 0))
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert "\n" not in found


def test_the_banner_says_that_torch_makes_the_views_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = small(3, 8)
    config = DataConfig(batch_size=4)
    settings = LoaderSettings(config, ((ViewSpec(8),) * 2,), 0, RankSlice(0, 1), device=torch.device("cuda", 0))
    monkeypatch.setattr("cl.data.datamodule.obstacle", lambda device: "Triton is not installed")
    splits = Splits(images, None, (), IMAGENET)
    way = "fast: all images lie on the GPU, no workers"
    assert str(ImageData(splits, settings)) == f"{way}; views by torch, slower: Triton is not installed"
    monkeypatch.setattr("cl.data.datamodule.obstacle", lambda device: "")
    assert str(ImageData(splits, settings)) == way


def test_all_processes_have_kernels_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that keeps images on its GPU would wait for the others."""
    images = small(3, 8)
    settings = LoaderSettings(DataConfig(batch_size=4), ((ViewSpec(8),) * 2,), 0, RankSlice(0, 1))
    monkeypatch.setattr("cl.data.datamodule.obstacle", lambda device: "")
    monkeypatch.setattr("cl.data.datamodule.on_any_rank", lambda flag: True)
    assert (
        ImageData(Splits(images, None, (), IMAGENET), settings).no_kernels == "another process cannot run the kernels"
    )


def test_the_attempt_runs_the_kernels(counts: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    attempt(CPU)
    assert counts["kernels"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_the_compiled_kernels_spill_nothing_and_round(architecture: str) -> None:
    """In a process of its own: the kernels of this one are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compile_kernels", architecture]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
