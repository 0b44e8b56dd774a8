"""The index contract: which rank sees which image when, for any number of images and processes and any resume point."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl.data.sampler import EvalSampler, RankSlice, TrainSampler
from cl.errors import UserError


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    batch, world = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    return draw(st.integers(batch * world, 200)), batch, world


def epoch_of(
    images: int, batch: int, world: int, epoch: int, fill: bool = False, start: int = 0
) -> list[list[list[int]]]:
    """The batches of indices of each rank."""
    ranks = []
    for rank in range(world):
        sampler = TrainSampler(images, batch, seed=0, rank_slice=RankSlice(rank, world), fill=fill)
        sampler.epoch, sampler.start = epoch, start
        pairs = list(sampler)
        assert all(e == epoch for batch_pairs in pairs for e, _ in batch_pairs)
        ranks.append([[index for _, index in batch_pairs] for batch_pairs in pairs])
    return ranks


@settings(derandomize=True, max_examples=200, deadline=None)
@given(sizes(), st.integers(0, 50))
def test_training_sees_no_image_twice_in_floor_n_over_wb_steps(size: tuple[int, int, int], epoch: int) -> None:
    images, batch, world = size
    ranks = epoch_of(images, batch, world, epoch)
    seen = [index for rank in ranks for indices in rank for index in indices]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(images))
    assert all(len(rank) == images // (batch * world) for rank in ranks)
    assert all(len(indices) == batch for rank in ranks for indices in rank)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(sizes(), st.integers(0, 50))
def test_last_batch_fill_sees_every_image_with_fewer_repeats_than_a_step(
    size: tuple[int, int, int], epoch: int
) -> None:
    images, batch, world = size
    ranks = epoch_of(images, batch, world, epoch, fill=True)
    seen = [index for rank in ranks for indices in rank for index in indices]
    assert set(seen) == set(range(images))
    assert len(seen) - images < batch * world
    assert len({len(rank) for rank in ranks}) == 1


@settings(derandomize=True, max_examples=100, deadline=None)
@given(sizes(), st.integers(0, 50))
def test_ranks_split_the_global_batches_of_one_process(size: tuple[int, int, int], epoch: int) -> None:
    images, batch, world = size
    ranks = epoch_of(images, batch, world, epoch)
    one_process = epoch_of(images, batch * world, 1, epoch)[0]
    assert [[i for rank in ranks for i in rank[step]] for step in range(len(one_process))] == one_process


@settings(derandomize=True, max_examples=100, deadline=None)
@given(sizes(), st.integers(0, 50), st.data())
def test_a_resumed_epoch_has_the_remaining_batches_of_the_epoch(
    size: tuple[int, int, int], epoch: int, data: st.DataObject
) -> None:
    ranks = epoch_of(*size, epoch)
    start = data.draw(st.integers(0, len(ranks[0])))
    assert epoch_of(*size, epoch, start=start) == [rank[start:] for rank in ranks]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(sizes(), st.integers(2, 3))
def test_parts_of_a_batch_are_the_same_images_whatever_the_number_of_processes(
    size: tuple[int, int, int], parts: int
) -> None:
    images, batch, world = size
    images *= parts
    whole = TrainSampler(images, parts * batch * world, 0, RankSlice(0, 1), parts=parts)
    ranks = [TrainSampler(images, parts * batch, 0, RankSlice(rank, world), parts=parts) for rank in range(world)]
    for expected, *shares in zip(whole, *ranks, strict=True):
        slices = [[share[k * batch : (k + 1) * batch] for share in shares] for k in range(parts)]
        assert [pair for part in slices for share in part for pair in share] == expected


def test_each_epoch_has_its_own_order_and_skips_different_images() -> None:
    orders = [epoch_of(103, 10, 1, epoch)[0] for epoch in range(5)]
    skipped = [frozenset(range(103)) - {i for indices in order for i in indices} for order in orders]
    assert len(set(map(str, orders))) == 5
    assert len(set(skipped)) == 5


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 4))
def test_evaluation_sees_every_image_once(images: int, batch: int, world: int) -> None:
    seen = []
    for rank in range(world):
        sampler = EvalSampler(images, batch, RankSlice(rank, world))
        assert len(list(sampler)) == len(sampler)
        seen += [index for pairs in sampler for _, index in pairs]
    assert sorted(seen) == list(range(images))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match="--batch_size: got 6 on 2 process"):
        TrainSampler(11, 6, seed=0, rank_slice=RankSlice(0, 2))


def test_an_epoch_has_complete_groups_of_batches_for_its_optimizer_steps() -> None:
    assert len(TrainSampler(100, 8, seed=0, rank_slice=RankSlice(0, 1), accumulate=5)) == 10  # of twelve
    assert len(TrainSampler(100, 8, seed=0, rank_slice=RankSlice(0, 1), fill=True, accumulate=5)) == 15
    refusal = r"--batch_size: got 6 on 2 process.* with --accumulate 3, 36 images a step, expected"
    with pytest.raises(UserError, match=refusal):
        TrainSampler(30, 6, seed=0, rank_slice=RankSlice(0, 2), accumulate=3)
