"""Subsets of the training images: the labelled fraction of each class, and the held-out tenth for a grid."""

from dataclasses import replace

import numpy as np
import torch

from cl.config.programs import Linear
from cl.data.datamodule import ImageData
from cl.data.images import ImageSet, Splits, Subset, stratified
from cl.data.loader import EvalLoader
from cl.data.order.grouped import shard_order
from cl.data.order.selection import class_counts, drawn_per_class
from cl.data.sampler import RankSlice, TrainSampler
from cl.data.settings import LoaderSettings, linear_settings
from cl.data.views.draws import Ints, Labels
from cl.errors import UserError, mentioning

HELD_OUT = 0.1  # of the training images choose the best point of a grid; the same images in every run
_SHARE = 0x5A4E  # a separate hash stream, for the images of a class


def fraction_per_class(targets: Labels, fraction: float, seed: int, spare: int = 0) -> Ints:
    """Ascending indices of a `fraction` of each class in `targets` [N]: at least one image, at most all but `spare`."""
    labels, counts = class_counts(targets)
    shares = np.minimum(np.maximum(1, np.rint(fraction * counts).astype(np.int64)), counts - spare)
    return drawn_per_class(targets, labels, counts, shares, _SHARE, seed)


def subset_of(images: ImageSet, chosen: Ints) -> ImageSet:
    """The `chosen` images; a subset of a subset refers to the original set, which loaders handle best."""
    return Subset(images.images, images.chosen[chosen]) if isinstance(images, Subset) else Subset(images, chosen)


def labelled_splits(splits: Splits, config: Linear) -> Splits:
    """The labelled fraction of the images that linear evaluation trains on."""
    splits = splits.labelled()
    if not splits.classes:
        with mentioning(splits.left_out):
            raise UserError(f"dataset: got {config.data.dataset} without labels, expected class folders or --labels")
    return with_label_fraction(splits, config.linear.label_fraction, config.run.seed)


def with_label_fraction(splits: Splits, fraction: float, seed: int) -> Splits:
    """`splits` with a fraction of the training images of each class, and a note about it unless it is 1."""
    if fraction == 1:
        return splits
    train = subset_of(splits.train, fraction_per_class(splits.train.targets, fraction, seed))
    note = f"--label_fraction {fraction:g} leaves {len(train)} of {len(splits.train)} training images"
    return replace(splits, train=train, notes=(*splits.notes, note))


def split_held_out(targets: Labels) -> tuple[Ints, Ints]:
    """Indices for training a grid, and of the stratified tenth (seed 0) for choosing; each class stays in the first."""
    held = fraction_per_class(targets, HELD_OUT, seed=0, spare=1)
    if not len(held):
        raise UserError("--lr: got a grid, but no class has a second image to hold out; expected one rate and decay")
    return np.setdiff1d(np.arange(len(targets)), held), held


class GridData(ImageData):
    """Training loaders for a grid: trains on nine tenths of the training images and validates on the held-out tenth."""

    def __init__(self, splits: Splits, settings: LoaderSettings) -> None:
        super().__init__(splits, settings)
        self.all_train = self.splits.train
        with mentioning(splits.left_out):
            order = shard_order(subset_of(splits.train, split_held_out(splits.train.targets)[0]), settings.data)
            train, held = (subset_of(self.all_train, chosen) for chosen in split_held_out(self.all_train.targets))
            self.held = held
            self.splits = replace(self.splits, train=train)
            self.sampler = TrainSampler(
                len(train),
                settings.data.batch_size,
                settings.seed,
                settings.rank_slice,
                settings.data.last_batch_fill,
                shards=order,
            )

    def val_dataloader(self) -> EvalLoader:
        return self.eval_loader(self.held)


def evaluation_data(splits: Splits, config: Linear, rank_slice: RankSlice, device: torch.device) -> ImageData:
    """The loaders of an evaluation; for a grid with the held-out tenth."""
    settings = linear_settings(config, rank_slice, device)
    return GridData(splits, settings) if config.holds_out else ImageData(splits, settings)


def evaluation_sets(data: ImageData, config: Linear) -> tuple[ImageSet, ImageSet | None]:
    """All training images, held-out ones included, and the validation images; one batch each under --fast_dev_run."""
    train = data.all_train if isinstance(data, GridData) else data.splits.train
    val = data.splits.val
    if not config.run.fast_dev_run:
        return train, val
    size = config.data.batch_size
    return stratified(train, size), stratified(val, size) if val is not None else None
