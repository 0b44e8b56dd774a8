"""`--hold_out`: take validation images from the training images; near duplicates stay on one side."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cl.data.images import EncodedSet, ImageSet, Splits, Subset
from cl.data.order.permutation import permuted
from cl.data.splitting.near_duplicates import group_of, thumbnails
from cl.data.views.draws import Ints
from cl.errors import UserError

_HOLD_OUT = 0x401D  # a separate hash stream
ENOUGH = 300  # images: about 4 to 5 points of accuracy can be told apart


def hold_out(splits: Splits, wanted: float) -> Splits:
    """Move a part of the training images to validation: `wanted` of them, a fraction below 1 or a number."""
    train = splits.train
    held = held_out_rows(thumbnails(train), train.targets, held_out_count(len(train), wanted))
    if not len(held):
        raise UserError(
            f"--hold_out: got {wanted:g} of {len(train)} images, expected images of which some can be held out; all of "
            "them are near duplicates of each other, or the only one of their class"
        )
    rest = np.setdiff1d(np.arange(len(train)), held)
    note = f"--hold_out {wanted:g} holds out {len(held)} of {len(train)} training images for validation"
    names = tuple(str(train.path(int(row))) for row in held) if isinstance(train, EncodedSet) else ()
    notes = (*splits.notes, note)
    return replace(splits, train=Subset(train, rest), val=Subset(train, held), notes=notes, held_out=names)


def held_out_count(images: int, wanted: float) -> int:
    """At least 300 where there are twice as many, and never more than half."""
    count = round(wanted * images) if wanted < 1 else int(wanted)
    return min(max(count, ENOUGH), images // 2)


def held_out_rows(thumbs: NDArray[np.float32], targets: Ints, count: int) -> Ints:
    """Ascending rows of about `count` images, each class' share rounded up; the choice is always the same.

    A group of near duplicates is held out as a whole or not at all, and never the last image of a class.

    Args:
        thumbs: [N, D] thumbnails of unit length.
        targets: [N] int64, -1 without a label.
        count: at most N / 2.
    """
    classes, label, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    wanted = np.ceil(count * sizes / max(len(targets), 1))
    most = int(wanted.sum() * 1.1)  # a group may exceed it by a little
    held = np.zeros(len(targets), np.bool_)
    passed_over = held.copy()
    taken = np.zeros(len(classes), np.int64)
    for row in permuted(np.arange(len(targets)), len(targets), _HOLD_OUT):
        if held[row] or passed_over[row] or taken[label[row]] >= wanted[label[row]]:
            continue
        room = most - int(held.sum())
        group = group_of(thumbs, int(row), room)
        grown = taken + np.bincount(label[group], minlength=len(classes))
        if len(group) > room or (grown >= sizes).any():
            passed_over[group] = True
            continue
        held[group] = True
        taken = grown
    return np.flatnonzero(held)


def labelled_split(images: ImageSet) -> tuple[Ints, Ints]:
    """Rows for training and for testing a classifier, of labelled images that were not held out before."""
    held = held_out_rows(thumbnails(images), images.targets, held_out_count(len(images), 0.2))
    return np.setdiff1d(np.arange(len(images)), held), held
