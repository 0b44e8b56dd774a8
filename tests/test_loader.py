"""Every loader yields the same batches for any number of workers, and resumes where the optimizer stopped."""

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
from cl.data.datamodule import ImageData
from cl.data.sampler import EvalSampler, RankSlice, TrainSampler
from cl.data.settings import LoaderSettings
from cl.data.sources.digits import digits
from cl.data.sources.registry import load
from cl.data.views.spec import pretrain_views
from cl.errors import UserError
from tests.pictures import plain, write_classes

SINGLE = RankSlice(0, 1)


def data(workers: int = 0, seed: int = 0, rank_slice: RankSlice = SINGLE) -> ImageData:
    config = parse(Pretrain, ["digits", "resnet18", "--batch_size", "200", "--num_workers", str(workers)]).config
    return ImageData(digits(DataConfig()), LoaderSettings(config.data, pretrain_views(config.views), seed, rank_slice))


def epoch_batches(module: ImageData, number: int = 0) -> list[Batch]:
    loader = module.train_dataloader()
    loader.set_epoch(number)
    return list(loader)


def same_batch(a: Batch, b: Batch) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = [(a.index, b.index), (a.target, b.target), *zip(a.views, b.views, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_has_the_documented_shapes() -> None:
    batch = epoch_batches(data())[0]
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


def loader_data(loader: str, folder: Path, workers: int = 0, rank_slice: RankSlice = SINGLE, *flags: str) -> ImageData:
    """The data of a loader; "resident" is the fast loader with digits, which it keeps on the device."""
    resident = loader == "resident"
    images = ["digits", "resnet18"] if resident else ["custom", "resnet18", "--train_dir", str(folder)]
    argv = [*images, "--loader", "fast" if resident else loader, "--num_workers", str(workers), *flags]
    argv += ["--batch_size", "100" if resident else "3", "--crop_size", "16", "--gaussian_prob", "0"]
    config = parse(Pretrain, argv).config
    return ImageData(load(config.data), LoaderSettings(config.data, pretrain_views(config.views), 0, rank_slice))


@pytest.mark.parametrize("loader", LOADERS)
def test_the_stream_is_the_same_for_any_number_of_workers(loader: str, folder: Path) -> None:
    without_workers = loader_data(loader, folder)
    expected = [epoch_batches(without_workers, number) for number in (0, 1)]
    for workers in (1, 3):
        with_workers = loader_data(loader, folder, workers)
        train = with_workers.train_dataloader()
        for number in (0, 1):  # the second epoch reuses the workers of the first
            train.set_epoch(number)
            assert all(same_batch(a, b) for a, b in zip(expected[number], train, strict=True))
        with_workers.teardown("fit")


def test_the_stream_is_the_same_for_every_loader(folder: Path) -> None:
    reference = epoch_batches(loader_data("torchvision", folder), 2)
    for loader in ("fast", "dali"):
        for batch, expected in zip(epoch_batches(loader_data(loader, folder), 2), reference, strict=True):
            assert torch.equal(batch.index, expected.index)
            assert torch.equal(batch.target, expected.target)
            difference = (batch.views[0] - expected.views[0]).abs()
            assert difference.mean() < (1e-5 if loader == "fast" else 0.01)  # DALI's resize rounds differently


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("fill", [(), ("--last_batch_fill",)], ids=["floor", "fill"])
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_keeps_the_index_contract(loader: str, folder: Path, fill: tuple[str, ...], size: int) -> None:
    """Each of `size` processes trains on its sampler's slice, with the same views per image as a single process."""
    expected_views = {}
    for batch in epoch_batches(loader_data(loader, folder, 0, SINGLE, "--last_batch_fill"), 4):
        expected_views |= dict(zip(batch.index.tolist(), batch.views[0].unbind(1), strict=True))
    for rank in range(size):
        rank_data = loader_data(loader, folder, 0, RankSlice(rank, size), *fill)
        sampler = TrainSampler(
            len(rank_data.splits.train), rank_data.settings.data.batch_size, 0, RankSlice(rank, size), bool(fill)
        )
        sampler.epoch = 4
        batches = epoch_batches(rank_data, 4)
        assert len(batches) == rank_data.steps_per_epoch
        assert [batch.index.tolist() for batch in batches] == [[i for _, i in pairs] for pairs in sampler]
        for batch in batches:
            assert torch.equal(batch.target, torch.from_numpy(rank_data.splits.train.targets)[batch.index])
            for i, view in zip(batch.index.tolist(), batch.views[0].unbind(1), strict=True):
                torch.testing.assert_close(view, expected_views[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_evaluates_each_image_once(loader: str, folder: Path, size: int) -> None:
    seen: list[int] = []
    for rank in range(size):
        rank_data = loader_data(loader, folder, 0, RankSlice(rank, size))
        batches = [batch.index.tolist() for batch in rank_data.eval_loader(rank_data.splits.train)]
        images, batch_size = len(rank_data.splits.train), rank_data.settings.data.batch_size
        assert batches == [[i for _, i in pairs] for pairs in EvalSampler(images, batch_size, RankSlice(rank, size))]
        seen += [i for indices in batches for i in indices]
    assert sorted(seen) == list(range(images))


@pytest.mark.parametrize("loader", LOADERS)
def test_an_interrupted_epoch_does_not_change_the_next_one(loader: str, folder: Path) -> None:
    expected, data = epoch_batches(loader_data(loader, folder), 1), loader_data(loader, folder)
    train = data.train_dataloader()
    for count in (1, 2):
        train.set_epoch(count + 5)
        assert len(list(islice(train, count))) == count
    train.set_epoch(1)
    assert all(same_batch(a, b) for a, b in zip(expected, train, strict=True))


def test_the_description_of_a_data_set_names_its_loader(folder: Path) -> None:
    assert str(loader_data("resident", folder)) == "fast: all images lie on the CPU, no workers"
    assert str(loader_data("fast", folder, 2)) == "fast, 2 workers"
    assert str(loader_data("dali", folder, 2)) == "dali, decoding on the CPU"


def test_dali_is_refused_without_its_package_and_on_a_missing_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--dali_device: got gpu, but the run is on the CPU; expected cpu"):
        loader_data("dali", folder, 0, SINGLE, "--dali_device", "gpu")
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        UserError, match="--loader: got dali, but DALI is not installed; expected --loader fast, or pip"
    ):
        loader_data("dali", folder)


def test_epochs_and_seeds_differ_and_a_repeated_epoch_is_the_same() -> None:
    first = epoch_batches(data())[0]
    assert same_batch(first, epoch_batches(data())[0])
    assert not torch.equal(first.index, epoch_batches(data(), 1)[0].index)
    assert not torch.equal(first.index, epoch_batches(data(seed=1))[0].index)


def test_the_views_of_an_image_differ() -> None:
    views = epoch_batches(data())[0].views[0]
    assert (views[0] != views[1]).flatten(1).any(dim=1).float().mean() > 0.95


def test_two_ranks_see_the_views_of_one_process() -> None:
    expected_views = {
        int(i): v for b in epoch_batches(data()) for i, v in zip(b.index, b.views[0].unbind(1), strict=True)
    }
    for rank in (0, 1):
        for batch in epoch_batches(data(rank_slice=RankSlice(rank, 2))):
            for i, view in zip(batch.index.tolist(), batch.views[0].unbind(1), strict=True):
                assert i not in expected_views or torch.equal(view, expected_views[i])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_after_the_consumed_batches(workers: int) -> None:
    expected = epoch_batches(data(), 3)
    loader = data(workers).train_dataloader()
    loader.set_epoch(3)
    for _ in islice(loader, 2):  # workers have already fetched more
        loader.step_done()
    resumed = data().train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed) == len(expected)
    assert all(same_batch(a, b) for a, b in zip(expected[2:], resumed, strict=True))


def test_evaluation_sees_each_image_once_in_order_and_unaugmented() -> None:
    module = data()
    batches = list(module.val_dataloader())
    assert torch.equal(torch.cat([b.index for b in batches]), torch.arange(360))
    assert all(same_batch(a, b) for a, b in zip(batches, module.val_dataloader(), strict=True))
    mean, std = module.splits.norm
    image = batches[0].views[0][0, 0] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(image, module.splits.val.read(0).float() / 255, atol=1e-6, rtol=0)


def test_digits_are_stratified_and_normalised_by_their_measured_mean_and_std() -> None:
    splits = digits(DataConfig())
    assert (len(splits.train), len(splits.val)) == (1437, 360)
    assert np.bincount(splits.val.targets).min() >= 34  # a fifth of each class
    pixels = torch.stack([splits.train.read(i) for i in range(1437)]).float() / 255
    mean, std = splits.norm
    assert [pixels.mean().item(), pixels.std().item()] == pytest.approx([mean[0], std[0]], abs=1e-4)


def test_a_batch_is_frozen_and_can_be_moved() -> None:
    batch = epoch_batches(data())[0]
    assert same_batch(batch.to(torch.device("cpu")), batch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.index = batch.target  # type: ignore[misc]
