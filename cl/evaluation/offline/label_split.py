"""Parts of the training images: the share of each class that has labels, and the tenth that picks a pair."""

from dataclasses import replace

import numpy as np

from cl.data.datamodule import ImageData, LoaderSettings
from cl.data.images import ImageSet, Splits, Subset
from cl.data.loader import EvalLoader
from cl.data.sampler import TrainSampler
from cl.data.views.draws import Ints, hash_words
from cl.errors import UserError

HELD_OUT = 0.1  # of the training images pick one pair of a grid, always the same ones


def share_of_each_class(targets: Ints, share: float, seed: int, spare: int = 0) -> Ints:
    """Indices, ascending, of `share` of each class in `targets` [N]: at least one, and at most all but `spare`."""
    order = np.argsort(hash_words(0x5A4E, seed, np.arange(len(targets))), kind="stable")
    by_class = order[np.argsort(targets[order], kind="stable")]
    _, counts = np.unique(targets, return_counts=True)
    of_each = np.split(by_class, counts.cumsum()[:-1])
    return np.sort(
        np.concatenate([each[: min(max(1, round(share * len(each))), len(each) - spare)] for each in of_each])
    )


def part_of(images: ImageSet, chosen: Ints) -> ImageSet:
    """Some of `images`; of a part, the part that it is of the whole, which loaders know best."""
    return Subset(images.images, images.chosen[chosen]) if isinstance(images, Subset) else Subset(images, chosen)


def with_labels(splits: Splits, fraction: float, seed: int) -> Splits:
    """`splits` with so much of the training images, and a note if that is not all."""
    if fraction == 1:
        return splits
    train = part_of(splits.train, share_of_each_class(splits.train.targets, fraction, seed))
    note = f"--label_fraction {fraction:g} leaves {len(train)} of {len(splits.train)} training images"
    return replace(splits, train=train, notes=(*splits.notes, note))


def held_out(targets: Ints) -> tuple[Ints, Ints]:
    """Indices of what a grid is trained on, and of the stratified tenth (seed 0) that picks; no class is used up."""
    picking = share_of_each_class(targets, HELD_OUT, seed=0, spare=1)
    if not len(picking):
        raise UserError("--lr: got a grid, but no class has a second image to pick with; expected one pair")
    return np.setdiff1d(np.arange(len(targets)), picking), picking


class GridData(ImageData):
    """Trains on nine tenths of the training images; what it validates on is the tenth that picks."""

    def __init__(self, splits: Splits, settings: LoaderSettings) -> None:
        super().__init__(splits, settings)
        self.whole = self.splits.train
        rest, picking = (part_of(self.whole, chosen) for chosen in held_out(self.whole.targets))
        self.splits, self.picking = replace(self.splits, train=rest), picking
        batch, fill = settings.data.batch_size, settings.data.last_batch_fill
        self.sampler = TrainSampler(len(rest), batch, settings.seed, settings.share, fill)

    def val_dataloader(self) -> EvalLoader:
        return self.eval_loader(self.picking)
