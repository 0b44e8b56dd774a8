"""`--shuffle shards`: shards in random order, a window of them mixed, as a function of the position."""

from pathlib import Path

import numpy as np
import pytest

from cl.config.data import DataConfig
from cl.data.images import Subset
from cl.data.order.grouped import ShardOrder, permuted_groups, shard_order
from cl.data.sampler import RankSlice, TrainSampler
from cl.data.sources.registry import load
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.pictures import write_classes
from tests.shards import as_shards

SIZES = [([5], 1), ([7, 1, 12, 3, 40, 2, 2], 1), ([7, 1, 12, 3, 40, 2, 2], 3), ([10] * 100, 8), ([3, 4], 99)]


def order_of(sizes: list[int], window: int, epoch: int = 0) -> np.ndarray:
    ends = np.cumsum(sizes)
    return permuted_groups(np.arange(ends[-1]), ShardOrder(ends, window), 1, epoch)


@pytest.mark.parametrize(("sizes", "window"), SIZES)
def test_every_image_comes_once_and_every_shard_in_one_window(sizes: list[int], window: int) -> None:
    for epoch in range(3):
        order = order_of(sizes, window, epoch)
        assert sorted(order.tolist()) == list(range(sum(sizes)))
        shard = np.searchsorted(np.cumsum(sizes), order, side="right")
        spans = [np.ptp(np.flatnonzero(shard == number)) + 1 for number in range(len(sizes))]
        assert all(span <= sum(sorted(sizes)[-window:]) for span in spans)


def test_an_order_is_a_function_of_the_position_and_differs_from_epoch_to_epoch() -> None:
    sizes = [7, 1, 12, 3, 40, 2, 2]
    order = ShardOrder(np.cumsum(sizes), 3)
    whole = order_of(sizes, 3)
    for positions in (np.array([66, 0, 31]), np.array([5]), np.arange(20, 50)):
        assert permuted_groups(positions, order, 1, 0).tolist() == whole[positions].tolist()
    assert len({tuple(order_of(sizes, 3, epoch).tolist()) for epoch in range(20)}) == 20


def test_all_shards_of_a_window_are_mixed_evenly() -> None:
    shard = order_of([50] * 20, 20) // 50
    first = np.bincount(shard[:500], minlength=20)
    assert first.min() > 10
    assert np.corrcoef(shard[:-1], shard[1:])[0, 1] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_global_batch_is_the_same_with_any_number_of_processes(world: int) -> None:
    order = ShardOrder(np.array([9, 20, 33, 50]), 2)
    ranks = [TrainSampler(50, 8 // world, 3, RankSlice(rank, world), shards=order) for rank in range(world)]
    for sampler in ranks:
        sampler.start = 2
    batches = [[index for batch in step for _, index in batch] for step in zip(*ranks, strict=True)]
    alone = TrainSampler(50, 8, 3, RankSlice(0, 1), shards=order)
    assert batches == [[index for _, index in batch] for batch in list(alone)[2:]]


@pytest.fixture
def data(folder: Path) -> Path:
    write_classes(folder / "data/train", {"a": 12, "b": 12})
    as_shards(folder / "data/train", folder / "data/shards", 4)
    return folder / "data"


def test_parts_of_shards_keep_their_shards(data: Path) -> None:
    config = DataConfig("custom", train_dir="tar/data/shards/*.tar", shuffle="shards", shuffle_window=2)
    train = load(config).train
    order = shard_order(train, config)
    part = shard_order(Subset(train, np.array([0, 1, 7, 13, 14, 23])), config)
    assert order is not None
    assert part is not None
    assert (order.ends.tolist(), part.ends.tolist()) == ([6, 12, 18, 24], [2, 3, 5, 6])


def test_a_run_takes_the_order_and_folders_are_refused(data: Path, run: Run) -> None:
    flags = ["custom", "resnet18", *TINY, "--crop_size", "32", "--batch_size", "4", "--epochs", "1"]
    flags += ["--num_workers", "0", "--shuffle", "shards", "--shuffle_window", "1", "--train_dir"]
    code, _, err = run("main_contrastive.py", *flags, "tar/data/shards/*.tar", "--run_id", "run")
    assert (code, err) == (0, "")
    with pytest.raises(UserError, match="--shuffle: got shards with --train_dir data/train, which has none"):
        shard_order(load(DataConfig("custom", train_dir="data/train")).train,
                    DataConfig("custom", train_dir="data/train", shuffle="shards"))  # fmt: skip
