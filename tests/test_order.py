"""The order of images: a permutation computed for a slice at a time, and selections of images drawn by it."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl.data.images import ArraySet, Subset, stratified_labelled
from cl.data.order import selection
from cl.data.order.permutation import permuted
from cl.data.order.selection import class_counts, count_labelled, drawn_per_class, even_shares
from tests.test_golden import GOLDEN, golden_order

POWERS = [2**k + d for k in range(9, 17) for d in (-1, 0, 1)]


def is_bijection(images: int, *key: int) -> bool:
    index = permuted(np.arange(images), images, *key)
    return bool(np.array_equal(np.sort(index), np.arange(images)))


def test_the_order_is_a_bijection_for_every_small_number_of_images() -> None:
    assert all(is_bijection(images, 0, images % 7) for images in range(1, 501))


@pytest.mark.parametrize("images", POWERS)
def test_the_order_is_a_bijection_around_powers_of_two(images: int) -> None:
    assert is_bijection(images, 3, 1)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(501, 100_000), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_the_order_is_a_bijection_for_any_number_seed_and_epoch(images: int, seed: int, epoch: int) -> None:
    assert is_bijection(images, seed, epoch)


def test_a_slice_of_the_order_needs_no_other_position() -> None:
    whole = permuted(np.arange(1000), 1000, 5)
    assert np.array_equal(permuted(np.arange(300, 417), 1000, 5), whole[300:417])


@pytest.mark.parametrize("images", [10**9, 2**40, 2**62 + 1])
def test_slices_of_huge_orders_are_distinct_spread_and_independent_of_their_neighbours(images: int) -> None:
    index = permuted(np.arange(images - 20_000, images), images, 0)
    assert len(np.unique(index)) == len(index)
    assert index.min() >= 0
    assert index.max() < images
    u = index / images
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * len(u))
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(len(u))


def test_all_orders_of_five_images_are_equally_frequent() -> None:
    number = {order: i for i, order in enumerate(permutations(range(5)))}
    orders = [number[tuple(permuted(np.arange(5), 5, seed, 0).tolist())] for seed in range(3000)]
    expected = 3000 / len(number)
    chi_squared = ((np.bincount(orders, minlength=len(number)) - expected) ** 2 / expected).sum()
    assert chi_squared < 172  # 99.9 % of samples with 119 degrees of freedom


def test_seed_and_epoch_are_both_in_the_key() -> None:
    keys = [(seed, epoch) for seed in range(8) for epoch in range(8)]
    assert len({permuted(np.arange(100), 100, *key).tobytes() for key in keys}) == len(keys)


def test_the_order_is_golden() -> None:
    """A run goes on in the order that it began with: another order needs another name in the checkpoint."""
    assert golden_order() == json.loads((Path(GOLDEN) / "order.json").read_text())


LABELS = np.random.default_rng(0).permutation(np.repeat([-1, 0, 2, 5], [40, 300, 7, 100]))


@pytest.mark.parametrize("at_once", [1, 10, 1 << 20])
def test_a_selection_is_the_same_however_many_labels_are_looked_at_together(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, counts = class_counts(LABELS)
    shares = np.array([3, 30, 7, 0])
    expected = drawn_per_class(LABELS, labels, counts, shares, 1)
    monkeypatch.setattr(selection, "AT_ONCE", at_once)
    assert [x.tolist() for x in class_counts(LABELS)] == [[-1, 0, 2, 5], [40, 300, 7, 100]]
    chosen = drawn_per_class(LABELS, labels, counts, shares, 1)
    assert chosen.tolist() == expected.tolist() == sorted(set(expected.tolist()))
    assert np.bincount(LABELS[chosen] + 1).tolist() == [3, 30, 0, 7]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.data())
def test_shares_are_those_of_picks_evenly_over_the_sorted_labels(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, sum(counts)))
    sorted_labels = np.repeat(np.arange(len(counts)), counts)
    picks = np.floor((np.arange(size) + 0.5) * sum(counts) / size).astype(int)
    expected = np.bincount(sorted_labels[picks], minlength=len(counts))
    assert even_shares(np.array(counts), size).tolist() == expected.tolist()


def test_a_billion_images_without_labels_are_counted_and_drawn_from_at_once() -> None:
    targets = np.broadcast_to(np.int8(-1), (10**9,))
    labels, counts = class_counts(targets)
    assert (labels.tolist(), counts.tolist(), count_labelled(targets)) == ([-1], [10**9], 0)
    chosen = drawn_per_class(targets, labels, counts, even_shares(counts, 2000), 1)
    assert len(np.unique(chosen)) == 2000
    assert chosen.max() > 9 * 10**8


def test_the_bank_has_labelled_images_only() -> None:
    images = ArraySet(np.zeros((len(LABELS), 1, 1, 1)), LABELS)  # type: ignore[arg-type]
    for size in (0, 50):
        bank = stratified_labelled(images, size)
        assert isinstance(bank, Subset)
        assert len(bank) == (size or 407)
        assert bank.targets.min() == 0
