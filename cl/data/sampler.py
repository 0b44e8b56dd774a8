"""Which images a process sees and when: (epoch, index) pairs, a pure function of (seed, epoch, rank, position)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cl.data.order.grouped import ShardOrder, permuted_groups
from cl.data.order.permutation import permuted
from cl.data.views.draws import Ints
from cl.errors import UserError

SampleKey = tuple[int, int]  # epoch, index: all that a worker needs to draw an image's views
_ORDER = 0x5EED  # separates the hash of the order from that of the views


@dataclass(frozen=True)
class RankSlice:
    """Which slice of each global batch this process takes."""

    rank: int
    world_size: int

    def positions(self, global_batch: int, parts: int = 1) -> Ints:
        """This process's slice of each part of a global batch, in turn."""
        slices: Ints = np.arange(global_batch).reshape(parts, self.world_size, -1)
        return slices[:, self.rank].ravel()


class TrainSampler:
    """Batches of `batch_size` pairs: slice `rank` of each global batch of one global permutation per epoch.

    No index repeats within an epoch, and every process has floor(N / (W B)) batches; the skipped images differ from
    epoch to epoch. With `fill` the last batch is filled up from the start of the permutation instead, so every index
    appears at least once. The number of batches is a multiple of `accumulate`. A batch may consist of `parts` that the
    network sees one at a time: part k of all processes together does not depend on the number of processes. With
    `shards` the permutation is that of `--shuffle shards`.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        rank_slice: RankSlice,
        fill: bool = False,
        accumulate: int = 1,
        parts: int = 1,
        shards: ShardOrder | None = None,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.rank_slice = rank_slice
        self.parts = parts
        self.shards = shards
        global_batch = batch_size * rank_slice.world_size * accumulate
        if global_batch > images:
            batches = accumulate * parts  # `batch_size` and `accumulate` are not those of the flags if there are parts
            accumulated = f" with --accumulate {batches}" if batches > 1 else ""
            raise UserError(
                f"--batch_size: got {batch_size // parts} on {rank_slice.world_size} process(es){accumulated}, "
                f"{global_batch} images a step, expected a global batch of at most the {images} training images"
            )
        steps = -(-images // global_batch) if fill else images // global_batch  # rounded up or down
        self.batches = accumulate * steps
        self.epoch = 0
        self.start = 0  # batches of this epoch that are already done

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        global_batch = self.batch_size * self.rank_slice.world_size
        own = self.rank_slice.positions(global_batch, self.parts)
        for batch in range(self.start, self.batches):
            positions = (batch * global_batch + own) % self.images  # beyond the last image with `fill`
            yield [(self.epoch, index) for index in self._order(positions).tolist()]

    def _order(self, positions: Ints) -> Ints:
        key = (_ORDER, self.seed, self.epoch)
        if self.shards is not None:
            return permuted_groups(positions, self.shards, *key)
        return permuted(positions, self.images, *key)


class EvalSampler:
    """Every index exactly once over all processes, in order: process r takes r, r + W, r + 2W, ..."""

    def __init__(self, images: int, batch_size: int, rank_slice: RankSlice) -> None:
        self.indices = range(rank_slice.rank, images, rank_slice.world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[begin : begin + self.batch_size]]
