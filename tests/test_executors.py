"""Whoever makes a view, it is the same view: the executors beside torchvision's own functions on float images."""

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
from cl.data.executors.resident import LARGEST_SIDE, ResidentExecutor, crop_views, is_resident, load_into_memory
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
    """Parts of the photographs: uint8 [count, 3, side, side]."""
    picture = torch.cat(tuple(photographs()), dim=2)
    across = picture.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).transpose(0, 1)
    return across[:: len(across) // count][:count].contiguous()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileSet:
    """Twelve JPEGs of 240 x 320 pixels: parts of the photographs."""
    root = tmp_path_factory.mktemp("photographs")
    names = [f"{i:02d}.jpg" for i in range(12)]
    for i, name in enumerate(names):
        part = photographs()[i % 2, :, 30 * (i // 2) : 30 * (i // 2) + 240, 60 * (i // 2) : 60 * (i // 2) + 320]
        F.to_pil_image(part).save(root / name, quality=90)
    return FileSet(root, names, np.arange(12) % 3, 3)


def small_set() -> ArraySet:
    return ArraySet(tiles(32, 64), np.arange(64) % 5)


def dali(images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> DaliExecutor:
    return DaliExecutor(images, planner, norm, device, CPU, threads=1)


def batch_of(executor: Executor, images: ImageSet, epoch: int = 1) -> Batch:
    return next(iter(executor.batches([executor.read([(epoch, i) for i in range(len(images))])])))


def views(size: int, small: int, **changed: Any) -> Views:
    """Two of `size` and three of `small`, no two specs alike."""
    first = ViewSpec(size, blur_prob=0.5, **(JITTER | changed))
    second = ViewSpec(size, blur_prob=0.1, **(JITTER | {"hue": 0.0} | changed))
    return (first, second), tuple(ViewSpec(small, (0.05, 0.3), **(JITTER | changed)) for _ in range(3))


# One operation at a time, on float images.


def colours(count: int, **changed: np.ndarray) -> Colours:
    """Of `count` views, nothing but what is named."""
    off = np.zeros(count, np.bool_)
    nothing = Colours(np.full((count, 4), -1), np.zeros((count, 4)), off, np.zeros(count), off)
    return nothing._replace(**changed)


def random(count: int, low: float, high: float) -> np.ndarray:
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
@pytest.mark.parametrize("place", range(4))
def test_a_jitter_operation_is_torchvisions(operation: int, function: Any, low: float, high: float, place: int) -> None:
    x = tiles(32, 40).float() / 255
    order, factors = np.full((40, 4), -1), np.zeros((40, 4))
    order[::2, place], factors[:, operation] = operation, random(40, low, high)
    found = apply_colours_(x.clone(), colours(40, order=order, factors=factors), 3)
    for i in range(40):
        expected = function(x[i], factors[i, operation]) if i % 2 == 0 else x[i]
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)


def test_hue_of_every_colour_is_torchvisions() -> None:
    """Greys, ties between channels and saturated colours included: all of a cube of 18^3 colours."""
    levels = torch.linspace(0, 1, 18)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 54, 108).expand(9, -1, -1, -1)
    shifts = np.linspace(-0.5, 0.5, 9)
    order, factors = np.tile([3, -1, -1, -1], (9, 1)), np.zeros((9, 4))
    factors[:, 3] = shifts
    found = apply_colours_(cube.clone(), colours(9, order=order, factors=factors), 3)
    expected = torch.stack([F.adjust_hue(cube[i], shift) for i, shift in enumerate(shifts)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_grey_and_solarize_are_torchvisions() -> None:
    x, on = tiles(32, 40).float() / 255, np.arange(40) % 2 == 0
    found = apply_colours_(x.clone(), colours(40, grey=on), 3)
    assert torch.equal(found[1::2], x[1::2])
    torch.testing.assert_close(found[::2], F.rgb_to_grayscale(x[::2], 3), atol=1e-4, rtol=0)
    found = apply_colours_(x.clone(), colours(40, solarize=on), 3)
    assert torch.equal(found[1::2], x[1::2])
    assert torch.equal(found[::2], F.solarize(x[::2], 128 / 255))


@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (96, 9), (224, 23)])
def test_blur_is_torchvisions(side: int, kernel: int) -> None:
    x, sigma = tiles(side, 4).float() / 255, np.array([0.1, 0.0, 0.7, 2.0])
    found = apply_colours_(x.clone(), colours(4, sigma=sigma), kernel)
    assert torch.equal(found[1], x[1])
    for i in (0, 2, 3):
        expected = F.gaussian_blur(x[i], [kernel, kernel], [sigma[i], sigma[i]])
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)


def test_normalisation_is_torchvisions() -> None:
    x = tiles(32, 8)
    rows = Rows(32, 3, Crops(*(np.zeros((8, 4), np.int64),) * 3, np.zeros(8, np.bool_)), None)
    found = augment(rows, x.__getitem__, CPU, IMAGENET)
    torch.testing.assert_close(found, normalize(x.float() / 255, IMAGENET), atol=1e-4, rtol=0)


# Crop and resize: torch's uint8 bit for bit, but for DALI; and all of them close to torchvision's on float images.


def crops_only(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> RandomViews:
    return RandomViews(((ViewSpec(size, scale),),), seed=5)


def by_torchvision(images: ImageSet, planner: RandomViews, as_float: bool) -> Tensor:
    """[B, C, S, S] in 0 to 255, of epoch 1."""
    found = []
    for i in range(len(images)):
        image = images.read(i)
        (rows,) = planner.rows(1, np.array([i]), np.array([image.shape[1:]]))
        image = image.float() if as_float else image
        view = F.resized_crop(image, *rows.crops.box[0].tolist(), [rows.size] * 2, antialias=True)
        found.append((F.horizontal_flip(view) if rows.crops.flip[0] else view).float())
    return torch.stack(found)


@pytest.mark.parametrize("size", [224, 96, 32])
@pytest.mark.parametrize("executor", [WorkerExecutor, dali])
def test_crops_of_photographs_are_torchvisions(files: FileSet, executor: Any, size: int) -> None:
    planner = crops_only(size)
    found = batch_of(executor(files, planner, PLAIN, CPU), files).views[0][0] * 255
    if executor is WorkerExecutor:
        torch.testing.assert_close(found, by_torchvision(files, planner, as_float=False), atol=1e-3, rtol=0)
    assert_like_a_float_resize(found, by_torchvision(files, planner, as_float=True))


@pytest.mark.parametrize("size", [32, 24, 16, 9])
@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_crops_of_small_images_are_torchvisions(executor: Any, size: int) -> None:
    images, planner = small_set(), crops_only(size)
    found = batch_of(executor(images, planner, PLAIN, CPU), images).views[0][0] * 255
    if executor is not dali:
        torch.testing.assert_close(found, by_torchvision(images, planner, as_float=False), atol=1e-3, rtol=0)
    assert_like_a_float_resize(found, by_torchvision(images, planner, as_float=True))


def assert_like_a_float_resize(found: Tensor, expected: Tensor) -> None:
    off = (found - expected).abs()
    assert (off > 2).float().mean() < 1e-3
    assert off.mean() < 0.35


def test_resident_crops_are_torchs_bytes_up_to_the_largest_side() -> None:
    images = tiles(LARGEST_SIDE, 6)
    for size in (LARGEST_SIDE, 96, 33):
        for scale in ((0.05, 0.14), (0.08, 1.0)):
            (rows,) = crops_only(size, scale).rows(0, np.arange(6), np.full((6, 2), LARGEST_SIDE))
            expected = torch.stack([crop_view(image, rows.crops, i, size) for i, image in enumerate(images)])
            assert torch.equal(crop_views(images, rows.crops, size), expected.float())


# Whole views: drawn once, made by each executor.


@pytest.mark.parametrize("executor", [WorkerExecutor, dali])
def test_views_of_photographs_are_the_references(files: FileSet, executor: Any) -> None:
    planner = RandomViews(views(224, 96), seed=3)
    assert_same_views(executor, files, planner, IMAGENET)


@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_views_of_small_images_are_the_references(executor: Any) -> None:
    assert_same_views(executor, small_set(), RandomViews(views(32, 16), seed=3), IMAGENET)


@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_grey_images_have_the_references_views(executor: Any) -> None:
    images = ArraySet(F.rgb_to_grayscale(tiles(32, 64)), np.zeros(64, np.int64))
    assert_same_views(executor, images, RandomViews(views(32, 16), seed=3), ((0.5,), (0.25,)))


def assert_same_views(executor: Any, images: ImageSet, planner: RandomViews, norm: Norm) -> None:
    found = batch_of(executor(images, planner, norm, CPU), images)
    expected = batch_of(TorchvisionExecutor(images, planner, norm, CPU), images)
    assert torch.equal(found.index, expected.index)
    assert torch.equal(found.target, expected.target)
    for ours, theirs in zip(found.views, expected.views, strict=True):
        assert ours.shape == theirs.shape
        off = (ours - theirs).abs()
        if executor is dali:  # its resize rounds otherwise, and jitter magnifies that
            levels = 255 * max(norm[1])
            assert off.mean() < 0.35 / levels * 2
            assert (off > 4 / levels * 2).float().mean() < 2e-3
        else:
            assert (off > 1e-4).float().mean() < 1e-5


def test_solarize_is_the_references_away_from_its_threshold() -> None:
    images = small_set()
    planner = RandomViews((tuple(ViewSpec(32, solarize_prob=1.0, **JITTER) for _ in range(2)),), seed=3)
    dark = RandomViews((tuple(ViewSpec(32, **JITTER) for _ in range(2)),), seed=3)
    found, expected = (
        batch_of(e(images, planner, PLAIN, CPU), images).views[0] for e in (ResidentExecutor, TorchvisionExecutor)
    )
    before = batch_of(TorchvisionExecutor(images, dark, PLAIN, CPU), images).views[0]
    near = (before - 128 / 255).abs() < 1e-4
    assert near.float().mean() < 0.01
    torch.testing.assert_close(found[~near], expected[~near], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [224, 96, 32])
@pytest.mark.parametrize("executor", [WorkerExecutor, dali])
def test_evaluation_views_are_the_references(files: FileSet, executor: Any, size: int) -> None:
    planner = CentreView(EvalSpec(size))
    found, expected = (batch_of(e(files, planner, PLAIN, CPU), files).views[0] for e in (executor, TorchvisionExecutor))
    assert_close_in_levels(found, expected, 0 if executor is WorkerExecutor else 1)


@pytest.mark.parametrize("size", [8, 32, 96])
@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor, dali])
def test_evaluation_views_of_small_images_are_the_references(executor: Any, size: int) -> None:
    images, planner = small_set(), CentreView(EvalSpec(size))
    found, expected = (
        batch_of(e(images, planner, PLAIN, CPU), images).views[0] for e in (executor, TorchvisionExecutor)
    )
    assert_close_in_levels(found, expected, 1 if executor is dali else 0)


def assert_close_in_levels(found: Tensor, expected: Tensor, levels: int) -> None:
    off = (found - expected).abs() * 255
    assert off.mean() < 0.35 * levels + 1e-3
    assert (off > 2 * levels + 1e-3).float().mean() < 1e-3


def test_a_line_is_not_blown_up(tmp_path: Path) -> None:
    plain(8, 1, 300).save(tmp_path / "line.png")
    images = FileSet(tmp_path, ["line.png"], np.zeros(1, np.int64), 3)
    planner = CentreView(EvalSpec(32))
    expected = batch_of(TorchvisionExecutor(images, planner, PLAIN, CPU), images).views[0]
    for executor in (WorkerExecutor, dali):
        assert_close_in_levels(batch_of(executor(images, planner, PLAIN, CPU), images).views[0], expected, 1)


# Who lies on the device.


def test_small_images_of_one_size_come_into_memory_and_others_stay_files(files: FileSet, tmp_path: Path) -> None:
    for i in range(4):
        plain(i, 20, 24).save(tmp_path / f"{i}.png")
    same = FileSet(tmp_path, [f"{i}.png" for i in range(4)], np.arange(4), 3)
    there = load_into_memory(same)
    assert isinstance(there, ArraySet)
    assert all(torch.equal(there.read(i), same.read(i)) for i in range(4))
    assert there.targets is same.targets
    assert load_into_memory(files) is files
    plain(9, 24, 24).save(tmp_path / "3.png")
    assert load_into_memory(same) is same


def test_a_part_of_resident_images_shares_their_tensor() -> None:
    images = small_set()
    part = stratified(images, 10)
    assert is_resident(part)
    planner = RandomViews(views(32, 16), seed=3)
    whole, some = ResidentExecutor(images, planner, PLAIN, CPU), ResidentExecutor(part, planner, PLAIN, CPU)
    assert some.pixels.data_ptr() == whole.pixels.data_ptr()
    assert_same_views(ResidentExecutor, part, planner, PLAIN)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("executor", [ResidentExecutor, WorkerExecutor])
def test_a_gpu_makes_the_cpus_views_one_batch_ahead(executor: Any) -> None:
    images, planner = small_set(), RandomViews(views(32, 16), seed=3)
    reads = [[(epoch, i) for i in range(64)] for epoch in range(4)]
    here, there = (executor(images, planner, IMAGENET, torch.device(d)) for d in ("cpu", "cuda:0"))
    pairs = list(zip(here.batches(map(here.read, reads)), there.batches(map(there.read, reads)), strict=True))
    assert len(pairs) == 4
    for ours, theirs in pairs:
        assert torch.equal(ours.index, theirs.index.cpu())
        for a, b in zip(ours.views, theirs.views, strict=True):
            assert ((a - b.cpu()).abs() > 1e-4).float().mean() < 1e-5


def test_the_reference_draws_what_rows_describe() -> None:
    """One description of a view: `rows` says of each view what `draw` drew for it."""
    planner = RandomViews(views(32, 16), seed=3)
    full, small = planner.rows(2, np.arange(7), np.full((7, 2), 40))
    assert [len(each.crops.flip) for each in (full, small)] == [14, 21]
    third = draw(planner.views[1][0], 3, 2, np.arange(7), 2)
    assert small.colours is not None
    assert np.array_equal(small.crops.flip[:7], third.flip)
    assert np.array_equal(small.colours.sigma[:7] > 0, third.blur)
    assert full.colours is not None
    assert not (full.colours.order[7:] == 3).any()  # the second view's hue has strength zero
