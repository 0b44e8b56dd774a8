"""Random selections of images, the same in every run: counted per class, drawn by a permutation of each class."""

from collections.abc import Sequence

import numpy as np

from cl.data.order.permutation import permuted
from cl.data.views.draws import Ints, Labels

AT_ONCE = 1 << 20  # labels that are looked at together: what a pass over all labels holds


def class_counts(targets: Labels) -> tuple[Ints, Ints]:
    """The labels that occur in `targets` [N], ascending [C], -1 among them; and how many images each has [C]."""
    if targets.strides == (0,):  # one label for all, stored once
        return targets[:1].astype(np.int64), np.full(len(targets[:1]), len(targets))
    counts = np.zeros(1, np.int64)
    for begin in range(0, len(targets), AT_ONCE):
        part = np.bincount(targets[begin : begin + AT_ONCE].astype(np.int64) + 1, minlength=len(counts))
        part[: len(counts)] += counts
        counts = part
    present = np.flatnonzero(counts)
    return present - 1, counts[present]


def count_labelled(targets: Labels) -> int:
    """The number of images with a label."""
    labels, counts = class_counts(targets)
    return int(counts[labels >= 0].sum())


def even_shares(counts: Ints, size: int) -> Ints:
    """How many of `size` images fall to each class [C] if they lie evenly over all images, sorted by class."""
    total = int(counts.sum())
    picks = np.floor((np.arange(size) + 0.5) * total / size)
    return np.diff(np.searchsorted(picks, counts.cumsum()), prepend=0)


def drawn_per_class(targets: Labels, labels: Ints, counts: Ints, shares: Ints, *key: int) -> Ints:
    """Ascending indices of `shares` [C] random images of each of `labels` [C], which have `counts` [C] images."""
    ranks = [
        np.sort(permuted(np.arange(share), count, *key, label))
        for label, count, share in zip(labels.tolist(), counts.tolist(), shares.tolist(), strict=True)
    ]
    return _indices_of_ranks(targets, labels, counts, ranks)


def _indices_of_ranks(targets: Labels, labels: Ints, counts: Ints, ranks: Sequence[Ints]) -> Ints:
    """Ascending indices of the images that have ranks `ranks[c]`, ascending, among those of the label `labels[c]`."""
    found = [np.zeros(0, np.int64)]
    if not any(map(len, ranks)):
        return found[0]
    if counts.tolist() == [len(targets)]:
        return ranks[0]
    passed = np.zeros(len(labels), np.int64)  # images of each class before the part
    for begin in range(0, len(targets), AT_ONCE):
        part = targets[begin : begin + AT_ONCE]
        by_class = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[by_class], [labels, labels + 1])  # [2, C]
        here = bounds[1] - bounds[0]
        for c in np.flatnonzero(here).tolist():
            first, last = np.searchsorted(ranks[c], [passed[c], passed[c] + here[c]])
            found.append(begin + by_class[bounds[0, c] + ranks[c][first:last] - passed[c]])
        passed += here
    return np.sort(np.concatenate(found))
