"""All executors make the same views, which match torchvision's functions on float images."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cl.batch import Batch
from cl.data.executors.base import Executor
from cl.data.executors.dali import DaliExecutor
from cl.data.executors.device import apply_colours_, augment
from cl.data.executors.resident import ResidentExecutor, crop_views
from cl.data.executors.resident_images import SMALL_SIDE, is_resident, load_into_memory
from cl.data.executors.torchvision import TorchvisionExecutor, normalize
from cl.data.executors.workers import WorkerExecutor, crop_view
from cl.data.images import ArraySet, FileSet, ImageSet, stratified
from cl.data.views.draws import draw
from cl.data.views.rows import CentreView, Colours, Crops, RandomViews, Rows, ViewPlanner
from cl.data.views.spec import EvalSpec, Norm, Views, ViewSpec
from tests.pictures import plain

CPU = torch.device("cpu")
IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN: Norm = ((0.0,) * 3, (1.0,) * 3)
JITTER: dict[str, Any] = {
    "jitter_prob": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grey_prob": 0.2,
}  # fmt: skip


@cache
def photographs() -> Tensor:
    """scikit-learn's two photographs, a temple and a flower: uint8 [2, 3, 427, 640]."""
    return torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)


def tiles(side: int, count: int) -> Tensor:
    """Tiles of the photographs: uint8 [count, 3, side, side]."""
    wide = torch.cat(tuple(photographs()), dim=2)
    grid = wide.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).transpose(0, 1)
    return grid[:: len(grid) // count][:count].contiguous()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileSet:
    """Twelve JPEGs of 240 x 320 pixels, cut from the photographs."""
    root = tmp_path_factory.mktemp("photographs")
    names = [f"{i:02d}.jpg" for i in range(12)]
    for i, name in enumerate(names):
        part = photographs()[i % 2, :, 30 * (i // 2) : 30 * (i // 2) + 240, 60 * (i // 2) : 60 * (i // 2) + 320]
        F.to_pil_image(part).save(root / name, quality=90)
    return FileSet(root, names, np.arange(12) % 3, 3)


def small_images() -> ArraySet:
    return ArraySet(tiles(32, 64), np.arange(64) % 5)


def dali(images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> DaliExecutor:
    return DaliExecutor(images, planner, norm, device, CPU, threads=1)


def batch_of(executor: Executor, images: ImageSet, epoch: int = 1) -> Batch:
    return next(iter(executor.batches([executor.read([(epoch, i) for i in range(len(images))])])))


def views(size: int, small: int, **changed: Any) -> Views:
    """Two views of `size` that differ in blur and hue, and three of `small`."""
    first = ViewSpec(size, blur_prob=0.5, **(JITTER | changed))
    second = ViewSpec(size, blur_prob=0.1, **(JITTER | {"hue": 0.0} | changed))
    return (first, second), tuple(ViewSpec(small, (0.05, 0.3), **(JITTER | changed)) for _ in range(3))


# One operation at a time, on float images.


def colour_params(count: int, **changed: np.ndarray) -> Colours:
    """Colour parameters of `count` views that change nothing except by the given fields."""
    off = np.zeros(count, np.bool_)
    neutral = Colours(np.full((count, 4), -1), np.zeros((count, 4)), off, np.zeros(count), off)
    return neutral._replace(**changed)


def uniform(count: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, count)


@pytest.mark.parametrize(
    ("operation", "function", "low", "high"),
    [
        (0, F.adjust_brightness, 0.2, 1.8),
        (1, F.adjust_contrast, 0.2, 1.8),
        (2, F.adjust_saturation, 0.2, 1.8),
        (3, F.adjust_hue, -0.5, 0.5),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
@pytest.mark.parametrize("position", range(4))
def test_a_jitter_operation_matches_torchvision(
    operation: int, function: Any, low: float, high: float, position: int
) -> None:
    x = tiles(32, 40).float() / 255
    order, factors = np.full((40, 4), -1), np.zeros((40, 4))
    order[::2, position], factors[:, operation] = operation, uniform(40, low, high)
    result = apply_colours_(x.clone(), colour_params(40, order=order, factors=factors), 3)
    for i in range(40):
        expected = function(x[i], factors[i, operation]) if i % 2 == 0 else x[i]
        torch.testing.assert_close(result[i], expected, atol=1e-4, rtol=0)


def test_hue_matches_torchvision_for_every_colour() -> None:
    """A cube of 18^3 colours, with greys, ties between channels and saturated colours."""
    levels = torch.linspace(0, 1, 18)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 54, 108).expand(9, -1, -1, -1)
    shifts = np.linspace(-0.5, 0.5, 9)
    order, factors = np.tile([3, -1, -1, -1], (9, 1)), np.zeros((9, 4))
    factors[:, 3] = shifts
    result = apply_colours_(cube.clone(), colour_params(9, order=order, factors=factors), 3)
    expected = torch.stack([F.adjust_hue(cube[i], shift) for i, shift in enumerate(shifts)])
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_grey_and_solarize_match_torchvision() -> None:
    x, on = tiles(32, 40).float() / 255, np.arange(40) % 2 == 0
    result = apply_colours_(x.clone(), colour_params(40, grey=on), 3)
    assert torch.equal(result[1::2], x[1::2])
    torch.testing.assert_close(result[::2], F.rgb_to_grayscale(x[::2], 3), atol=1e-4, rtol=0)
    result = apply_colours_(x.clone(), colour_params(40, solarize=on), 3)
    assert torch.equal(result[1::2], x[1::2])
    assert torch.equal(result[::2], F.solarize(x[::2], 128 / 255))


@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (96, 9), (224, 23)])
def test_blur_matches_torchvision(side: int, kernel: int) -> None:
    x, sigma = tiles(side, 4).float() / 255, np.array([0.1, 0.0, 0.7, 2.0])
    result = apply_colours_(x.clone(), colour_params(4, sigma=sigma), kernel)
    assert torch.equal(result[1], x[1])
    for i in (0, 2, 3):
        expected = F.gaussian_blur(x[i], [kernel, kernel], [sigma[i], sigma[i]])
        torch.testing.assert_close(result[i], expected, atol=1e-4, rtol=0)


def test_normalisation_matches_torchvision() -> None:
    x = tiles(32, 8)
    rows = Rows(32, 3, Crops(*(np.zeros((8, 4), np.int64),) * 3, np.zeros(8, np.bool_)), None)
    result = augment(rows, x.__getitem__, CPU, IMAGENET)
    torch.testing.assert_close(result, normalize(x.float() / 255, IMAGENET), atol=1e-4, rtol=0)


# Crop and resize: torch's uint8 result except for DALI, and close to torchvision's float result for all.


def crops_only(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> RandomViews:
    return RandomViews(((ViewSpec(size, scale),),), seed=5)


def torchvision_crops(images: ImageSet, planner: RandomViews, as_float: bool) -> Tensor:
    """The views of epoch 1, [B, C, S, S], 0 to 255, by torchvision's functions."""
    crops = []
    for i in range(len(images)):
        image = images.read(i)
        (rows,) = planner.rows(1, np.array([i]), np.array([image.shape[1:]]))
        image = image.float() if as_float else image
        view = F.resized_crop(image, *rows.crops.box[0].tolist(), [rows.size] * 2, antialias=True)
        crops.append((F.horizontal_flip(view) if rows.crops.flip[0] else view).float())
    return torch.stack(crops)


@pytest.mark.parametrize("size", [224, 96, 32])
@pytest.mark.parametrize("executor", [WorkerExecutor, dali])
def test_crops_of_photographs_match_torchvision(files: FileSet, executor: Any, size: int) -> None:
    planner = crops_only(size)
    crops = batch_of(executor(files, planner, PLAIN, CPU), files).views[0][0] * 255
    if executor is WorkerExecutor:
        torch.testing.assert_close(crops, torchvision_crops(files, planner, as_float=False), atol=1e-3, rtol=0)
    assert_close_to_float_resize(crops, torchvision_crops(files, planner, as_float=True))


@pytest.mark.parametrize("size", [32, 24, 16, 9])
@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_crops_of_small_images_match_torchvision(executor: Any, size: int) -> None:
    images, planner = small_images(), crops_only(size)
    crops = batch_of(executor(images, planner, PLAIN, CPU), images).views[0][0] * 255
    if executor is not dali:
        torch.testing.assert_close(crops, torchvision_crops(images, planner, as_float=False), atol=1e-3, rtol=0)
    assert_close_to_float_resize(crops, torchvision_crops(images, planner, as_float=True))


def assert_close_to_float_resize(crops: Tensor, expected: Tensor) -> None:
    difference = (crops - expected).abs()
    assert (difference > 2).float().mean() < 1e-3
    assert difference.mean() < 0.35


def test_resident_crops_equal_torchs_uint8_resize_up_to_the_largest_side() -> None:
    images = tiles(SMALL_SIDE, 6)
    for size in (SMALL_SIDE, 96, 33, 20):
        for scale in ((0.05, 0.14), (0.08, 1.0)):
            (rows,) = crops_only(size, scale).rows(0, np.arange(6), np.full((6, 2), SMALL_SIDE))
            expected = torch.stack([crop_view(image, rows.crops, i, size) for i, image in enumerate(images)])
            assert torch.equal(crop_views(images, rows.crops, size), expected.float())


# Complete views: parameters drawn once, applied by each executor.


@pytest.mark.parametrize("executor", [WorkerExecutor, dali])
def test_views_of_photographs_match_the_reference(files: FileSet, executor: Any) -> None:
    planner = RandomViews(views(224, 96), seed=3)
    assert_same_views(executor, files, planner, IMAGENET)


@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_views_of_small_images_match_the_reference(executor: Any) -> None:
    assert_same_views(executor, small_images(), RandomViews(views(32, 16), seed=3), IMAGENET)


@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_views_of_grey_images_match_the_reference(executor: Any) -> None:
    images = ArraySet(F.rgb_to_grayscale(tiles(32, 64)), np.zeros(64, np.int64))
    assert_same_views(executor, images, RandomViews(views(32, 16), seed=3), ((0.5,), (0.25,)))


def assert_same_views(executor: Any, images: ImageSet, planner: RandomViews, norm: Norm) -> None:
    actual = batch_of(executor(images, planner, norm, CPU), images)
    expected = batch_of(TorchvisionExecutor(images, planner, norm, CPU), images)
    assert torch.equal(actual.index, expected.index)
    assert torch.equal(actual.target, expected.target)
    for ours, theirs in zip(actual.views, expected.views, strict=True):
        assert ours.shape == theirs.shape
        difference = (ours - theirs).abs()
        if executor is dali:  # its resize rounds differently, and jitter amplifies the difference
            levels = 255 * max(norm[1])
            assert difference.mean() < 0.35 / levels * 2
            assert (difference > 4 / levels * 2).float().mean() < 2e-3
        else:
            assert (difference > 1e-4).float().mean() < 1e-5


def test_solarize_matches_the_reference_away_from_its_threshold() -> None:
    images = small_images()
    planner = RandomViews((tuple(ViewSpec(32, solarize_prob=1.0, **JITTER) for _ in range(2)),), seed=3)
    without_solarize = RandomViews((tuple(ViewSpec(32, **JITTER) for _ in range(2)),), seed=3)
    actual, expected = (
        batch_of(e(images, planner, PLAIN, CPU), images).views[0] for e in (ResidentExecutor, TorchvisionExecutor)
    )
    before = batch_of(TorchvisionExecutor(images, without_solarize, PLAIN, CPU), images).views[0]
    near_threshold = (before - 128 / 255).abs() < 1e-4
    assert near_threshold.float().mean() < 0.01
    torch.testing.assert_close(actual[~near_threshold], expected[~near_threshold], atol=1e-4, rtol=0)


BICUBIC = EvalSpec(72, 77, "bicubic"), EvalSpec(9, 12, "bicubic")  # never by DALI
BILINEAR = tuple(map(EvalSpec, (224, 96, 32, 8)))


@pytest.mark.parametrize(
    ("executor", "spec"),
    [(WorkerExecutor, spec) for spec in (*BILINEAR, *BICUBIC)] + [(dali, spec) for spec in BILINEAR],
)
def test_evaluation_views_match_the_reference(files: FileSet, executor: Any, spec: EvalSpec) -> None:
    planner = CentreView(spec)
    actual, expected = (
        batch_of(e(files, planner, PLAIN, CPU), files).views[0] for e in (executor, TorchvisionExecutor)
    )
    assert_close_in_levels(actual, expected, 0 if executor is WorkerExecutor else 1)


@pytest.mark.parametrize(
    ("executor", "spec"),
    [(executor, spec) for executor in (ResidentExecutor, WorkerExecutor) for spec in (*BILINEAR[1:], *BICUBIC)]
    + [(dali, spec) for spec in BILINEAR[1:]],
)
def test_evaluation_views_of_small_images_match_the_reference(executor: Any, spec: EvalSpec) -> None:
    images, planner = small_images(), CentreView(spec)
    actual, expected = (
        batch_of(e(images, planner, PLAIN, CPU), images).views[0] for e in (executor, TorchvisionExecutor)
    )
    assert_close_in_levels(actual, expected, 1 if executor is dali else 0)


def assert_close_in_levels(actual: Tensor, expected: Tensor, levels: int) -> None:
    difference = (actual - expected).abs() * 255
    assert difference.mean() < 0.35 * levels + 1e-3
    assert (difference > 2 * levels + 1e-3).float().mean() < 1e-3


def test_an_image_one_pixel_high_is_evaluated_like_the_reference(tmp_path: Path) -> None:
    plain(8, 1, 300).save(tmp_path / "line.png")
    images = FileSet(tmp_path, ["line.png"], np.zeros(1, np.int64), 3)
    planner = CentreView(EvalSpec(32))
    expected = batch_of(TorchvisionExecutor(images, planner, PLAIN, CPU), images).views[0]
    for executor in (WorkerExecutor, dali):
        assert_close_in_levels(batch_of(executor(images, planner, PLAIN, CPU), images).views[0], expected, 1)


# Images that stay on the device.


def test_only_small_images_of_one_size_are_loaded_into_memory(files: FileSet, tmp_path: Path) -> None:
    for i in range(4):
        plain(i, 20, 24).save(tmp_path / f"{i}.png")
    equal_sizes = FileSet(tmp_path, [f"{i}.png" for i in range(4)], np.arange(4), 3)
    loaded = load_into_memory(equal_sizes)
    assert isinstance(loaded, ArraySet)
    assert all(torch.equal(loaded.read(i), equal_sizes.read(i)) for i in range(4))
    assert loaded.targets is equal_sizes.targets
    assert load_into_memory(files) is files
    plain(9, 24, 24).save(tmp_path / "3.png")
    assert load_into_memory(equal_sizes) is equal_sizes


def test_a_subset_of_resident_images_shares_their_tensor() -> None:
    images = small_images()
    subset = stratified(images, 10)
    assert is_resident(subset)
    planner = RandomViews(views(32, 16), seed=3)
    executor = ResidentExecutor(images, planner, PLAIN, CPU)
    subset_executor = ResidentExecutor(subset, planner, PLAIN, CPU)
    assert subset_executor.pixels.data_ptr() == executor.pixels.data_ptr()
    assert_same_views(ResidentExecutor, subset, planner, PLAIN)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor])
def test_views_prefetched_on_a_gpu_match_those_on_the_cpu(executor: Any) -> None:
    images, planner = small_images(), RandomViews(views(32, 16), seed=3)
    reads = [[(epoch, i) for i in range(64)] for epoch in range(4)]
    on_cpu, on_gpu = (executor(images, planner, IMAGENET, torch.device(d)) for d in ("cpu", "cuda:0"))
    pairs = list(zip(on_cpu.batches(map(on_cpu.read, reads)), on_gpu.batches(map(on_gpu.read, reads)), strict=True))
    assert len(pairs) == 4
    for ours, theirs in pairs:
        assert torch.equal(ours.index, theirs.index.cpu())
        for a, b in zip(ours.views, theirs.views, strict=True):
            assert ((a - b.cpu()).abs() > 1e-4).float().mean() < 1e-5


def test_rows_hold_the_drawn_parameters_of_each_view() -> None:
    """`rows` describes each view with what `draw` drew for it."""
    planner = RandomViews(views(32, 16), seed=3)
    full, small = planner.rows(2, np.arange(7), np.full((7, 2), 40))
    assert [len(rows.crops.flip) for rows in (full, small)] == [14, 21]
    third = draw(planner.views[1][0], 3, 2, np.arange(7), 2)
    assert small.colours is not None
    assert np.array_equal(small.crops.flip[:7], third.flip)
    assert np.array_equal(small.colours.sigma[:7] > 0, third.blur)
    assert full.colours is not None
    assert not (full.colours.order[7:] == 3).any()  # the second view's hue has strength zero
