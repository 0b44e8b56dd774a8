"""The order of `--shuffle shards` as a function: position -> index, with a table of the shards, not of the images.

The shards come in an order of the epoch. Every `window` of them are mixed: the images of a window come in an order of
its own before those of the next. So a disk has to reach `window` shards at a time, and each shard once an epoch.
"""

from dataclasses import dataclass

import numpy as np

from cl.config.data import DataConfig
from cl.data.images import EncodedSet, ImageSet, Subset
from cl.data.order.permutation import permuted
from cl.data.views.draws import Ints
from cl.errors import UserError

_SHARDS = 0x54A2D  # separates the hash of the shards' order from those of the windows


@dataclass(frozen=True)
class ShardOrder:
    """What is known of the images: shard s has the images ends[s - 1] to ends[s] - 1."""

    ends: Ints  # [S] int64, ascending; the last one is N
    window: int  # shards that are mixed


def shard_order(images: ImageSet, data: DataConfig) -> ShardOrder | None:
    """The shards of `images` under `--shuffle shards`, None under `--shuffle images`."""
    if data.shuffle == "images":
        return None
    ends = _ends(images)
    if ends is None:
        given = f"--train_dir {data.train_dir}" if data.train_dir is not None else data.dataset
        raise UserError(f"--shuffle: got shards with {given}, which has none; expected tar/GLOB, or --shuffle images")
    return ShardOrder(np.unique(ends[ends > 0]), data.shuffle_window)


def _ends(images: ImageSet) -> Ints | None:
    if isinstance(images, Subset):
        ends = _ends(images.images)
        return np.searchsorted(images.chosen, ends) if ends is not None else None
    return images.group_ends() if isinstance(images, EncodedSet) else None


def permuted_groups(positions: Ints, order: ShardOrder, *key: int) -> Ints:
    """The images at `positions` of the order that `key` names; a bijection of [0, N).

    Args:
        positions: [P] int64, each in [0, N).

    Returns:
        [P] int64, each in [0, N).
    """
    ends = order.ends
    window = order.window
    begins = np.concatenate([[0], ends[:-1]])
    shards = permuted(np.arange(len(ends)), len(ends), _SHARDS, *key)
    lengths = (ends - begins)[shards]
    bounds = np.concatenate([[0], np.cumsum(lengths)])  # [S + 1] positions at which shards begin, before mixing
    firsts = np.arange(0, len(ends), window)  # of each window, its first shard
    which = np.searchsorted(bounds[firsts], positions, side="right") - 1  # the window of each position
    mixed = np.empty(len(positions), np.int64)
    for number in np.unique(which):
        here = which == number
        begin = bounds[firsts[number]]
        size = int(bounds[min(firsts[number] + window, len(ends))] - begin)
        mixed[here] = begin + permuted(positions[here] - begin, size, *key, int(number))
    shard = np.searchsorted(bounds, mixed, side="right") - 1
    index: Ints = begins[shards[shard]] + mixed - bounds[shard]
    return index
