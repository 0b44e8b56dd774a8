"""Every loader yields the same Batches, whatever the workers, and resumes where the optimizer stopped."""

import dataclasses
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cl.batch import Batch
from cl.cli import parse
from cl.config.data import DataConfig
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData, LoaderSettings
from cl.data.sampler import EvalSampler, RankSlice, TrainSampler
from cl.data.sources.digits import digits
from cl.data.sources.registry import load
from cl.data.views.spec import pretrain_views
from cl.errors import UserError
from tests.pictures import plain, write_classes

ALONE = RankSlice(0, 1)


def data(workers: int = 0, seed: int = 0, rank_slice: RankSlice = ALONE) -> ImageData:
    config = parse(Pretrain, ["digits", "resnet18", "--batch_size", "200", "--num_workers", str(workers)]).config
    return ImageData(digits(DataConfig()), LoaderSettings(config.data, pretrain_views(config.views), seed, rank_slice))


def epoch(module: ImageData, number: int = 0) -> list[Batch]:
    loader = module.train_dataloader()
    loader.set_epoch(number)
    return list(loader)


def same(a: Batch, b: Batch) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = [(a.index, b.index), (a.target, b.target), *zip(a.views, b.views, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_has_the_shapes_of_the_legend() -> None:
    batch = epoch(data())[0]
    assert batch.index.shape == batch.target.shape == (200,)
    assert batch.index.dtype == batch.target.dtype == torch.int64
    assert [views.shape for views in batch.views] == [(2, 200, 3, 8, 8)]
    assert batch.views[0].dtype == torch.float32
    assert abs(batch.views[0].mean()) < 0.3
    targets = digits(DataConfig()).train.targets
    assert torch.equal(batch.target, torch.from_numpy(targets)[batch.index])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 images of different sizes in three classes."""
    root = write_classes(tmp_path_factory.mktemp("loaders") / "images", {"a": 10, "b": 10, "c": 8})
    plain(99, 50, 31).save(root / "c" / "tall.png")
    return root


LOADERS = ("fast", "resident", "torchvision", "dali")


def fed(loader: str, folder: Path, workers: int = 0, rank_slice: RankSlice = ALONE, *flags: str) -> ImageData:
    """The images of the folder by a loader; "resident" are digits, which `fast` has on the device."""
    fast = loader == "resident"
    images = ["digits", "resnet18"] if fast else ["custom", "resnet18", "--train_dir", str(folder)]
    words = [*images, "--loader", "fast" if fast else loader, "--num_workers", str(workers), *flags]
    words += ["--batch_size", "100" if fast else "3", "--crop_size", "16", "--gaussian_prob", "0"]
    config = parse(Pretrain, words).config
    return ImageData(load(config.data), LoaderSettings(config.data, pretrain_views(config.views), 0, rank_slice))


@pytest.mark.parametrize("loader", LOADERS)
def test_the_stream_is_the_same_for_any_number_of_workers(loader: str, folder: Path) -> None:
    alone = fed(loader, folder)
    expected = [epoch(alone, number) for number in (0, 1)]
    for workers in (1, 3):
        several = fed(loader, folder, workers)
        train = several.train_dataloader()
        for number in (0, 1):  # the second epoch with the workers of the first
            train.set_epoch(number)
            assert all(same(a, b) for a, b in zip(expected[number], train, strict=True))
        several.teardown("fit")


def test_the_stream_is_the_same_for_every_loader(folder: Path) -> None:
    reference = epoch(fed("torchvision", folder), 2)
    for loader in ("fast", "dali"):
        for found, expected in zip(epoch(fed(loader, folder), 2), reference, strict=True):
            assert torch.equal(found.index, expected.index)
            assert torch.equal(found.target, expected.target)
            off = (found.views[0] - expected.views[0]).abs()
            assert off.mean() < (1e-5 if loader == "fast" else 0.01)  # DALI rounds a resize otherwise


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("fill", [(), ("--last_batch_fill",)], ids=["floor", "fill"])
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_keeps_the_index_contract(loader: str, folder: Path, fill: tuple[str, ...], size: int) -> None:
    """Training, on each of `size` processes, is the sampler's slice, and each image has the views it has on one."""
    alone = {}
    for batch in epoch(fed(loader, folder, 0, ALONE, "--last_batch_fill"), 4):
        alone |= dict(zip(batch.index.tolist(), batch.views[0].unbind(1), strict=True))
    for rank in range(size):
        data = fed(loader, folder, 0, RankSlice(rank, size), *fill)
        sampler = TrainSampler(
            len(data.splits.train), data.settings.data.batch_size, 0, RankSlice(rank, size), bool(fill)
        )
        sampler.epoch = 4
        batches = epoch(data, 4)
        assert len(batches) == data.steps_per_epoch
        assert [batch.index.tolist() for batch in batches] == [[i for _, i in pairs] for pairs in sampler]
        for batch in batches:
            assert torch.equal(batch.target, torch.from_numpy(data.splits.train.targets)[batch.index])
            for i, view in zip(batch.index.tolist(), batch.views[0].unbind(1), strict=True):
                torch.testing.assert_close(view, alone[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_evaluates_each_image_once(loader: str, folder: Path, size: int) -> None:
    seen: list[int] = []
    for rank in range(size):
        data = fed(loader, folder, 0, RankSlice(rank, size))
        found = [batch.index.tolist() for batch in data.eval_loader(data.splits.train)]
        images, batch = len(data.splits.train), data.settings.data.batch_size
        assert found == [[i for _, i in pairs] for pairs in EvalSampler(images, batch, RankSlice(rank, size))]
        seen += [i for each in found for i in each]
    assert sorted(seen) == list(range(images))


@pytest.mark.parametrize("loader", LOADERS)
def test_an_epoch_that_is_broken_off_leaves_nothing_behind(loader: str, folder: Path) -> None:
    expected, data = epoch(fed(loader, folder), 1), fed(loader, folder)
    train = data.train_dataloader()
    for taken in (1, 2):
        train.set_epoch(taken + 5)
        assert len(list(islice(train, taken))) == taken
    train.set_epoch(1)
    assert all(same(a, b) for a, b in zip(expected, train, strict=True))


def test_a_data_set_says_how_it_is_fed(folder: Path) -> None:
    assert str(fed("resident", folder)) == "fast: all images lie on the CPU, no workers"
    assert str(fed("fast", folder, 2)) == "fast, 2 workers"
    assert str(fed("dali", folder, 2)) == "dali, decoding on the CPU"


def test_dali_that_is_not_there_and_a_gpu_that_is_not_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--dali_device: got gpu, but the run is on the CPU; expected cpu"):
        fed("dali", folder, 0, ALONE, "--dali_device", "gpu")
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        UserError, match="--loader: got dali, but DALI is not installed; expected --loader fast, or pip"
    ):
        fed("dali", folder)


def test_epochs_and_seeds_differ_and_a_repeat_does_not() -> None:
    first = epoch(data())[0]
    assert same(first, epoch(data())[0])
    assert not torch.equal(first.index, epoch(data(), 1)[0].index)
    assert not torch.equal(first.index, epoch(data(seed=1))[0].index)


def test_the_views_of_an_image_differ() -> None:
    views = epoch(data())[0].views[0]
    assert (views[0] != views[1]).flatten(1).any(dim=1).float().mean() > 0.95


def test_two_ranks_share_one_stream_of_views() -> None:
    alone = {int(i): v for b in epoch(data()) for i, v in zip(b.index, b.views[0].unbind(1), strict=True)}
    for rank in (0, 1):
        for batch in epoch(data(rank_slice=RankSlice(rank, 2))):
            for i, view in zip(batch.index.tolist(), batch.views[0].unbind(1), strict=True):
                assert i not in alone or torch.equal(view, alone[i])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_after_the_batches_that_were_consumed(workers: int) -> None:
    whole = epoch(data(), 3)
    loader = data(workers).train_dataloader()
    loader.set_epoch(3)
    for _ in islice(loader, 2):  # workers have fetched more by now
        loader.step_done()
    resumed = data().train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed) == len(whole)
    assert all(same(a, b) for a, b in zip(whole[2:], resumed, strict=True))


def test_evaluation_sees_each_image_once_in_order_and_unaugmented() -> None:
    module = data()
    batches = list(module.val_dataloader())
    assert torch.equal(torch.cat([b.index for b in batches]), torch.arange(360))
    assert all(same(a, b) for a, b in zip(batches, module.val_dataloader(), strict=True))
    mean, std = module.splits.norm
    image = batches[0].views[0][0, 0] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(image, module.splits.val.read(0).float() / 255, atol=1e-6, rtol=0)


def test_digits_are_split_without_overlap_and_normalised_by_what_was_measured() -> None:
    splits = digits(DataConfig())
    assert (len(splits.train), len(splits.val)) == (1437, 360)
    assert np.bincount(splits.val.targets).min() >= 34  # each class has its fifth
    pixels = torch.stack([splits.train.read(i) for i in range(1437)]).float() / 255
    mean, std = splits.norm
    assert [pixels.mean().item(), pixels.std().item()] == pytest.approx([mean[0], std[0]], abs=1e-4)


def test_a_batch_is_frozen_and_moves_as_a_whole() -> None:
    batch = epoch(data())[0]
    assert same(batch.to(torch.device("cpu")), batch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.index = batch.target  # type: ignore[misc]
