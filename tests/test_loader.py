"""Every loader yields the same Batches, whatever the workers, and resumes where the optimizer stopped."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from cl.batch import Batch
from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData, LoaderSettings
from cl.data.datasets import digits
from cl.data.sampler import Share
from cl.data.view_spec import pretrain_views

ALONE = Share(0, 1)


def data(workers: int = 0, seed: int = 0, share: Share = ALONE) -> ImageData:
    config = parse(Pretrain, ["digits", "resnet18", "--batch_size", "200", "--num_workers", str(workers)]).config
    return ImageData(digits(), LoaderSettings(config.data, pretrain_views(config.views), seed, share))


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
    targets = digits().train.targets
    assert torch.equal(batch.target, torch.from_numpy(targets)[batch.index])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_stream_is_the_same_for_any_number_of_workers(workers: int) -> None:
    alone, loader = data(), data(workers).train_dataloader()
    for number in (0, 1):  # the second epoch with the workers of the first
        loader.set_epoch(number)
        assert all(same(a, b) for a, b in zip(epoch(alone, number), loader, strict=True))


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
        for batch in epoch(data(share=Share(rank, 2))):
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
    splits = digits()
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
