"""Parts of the training images: the fraction of each class that has labels, and the tenth that chooses a point."""

from dataclasses import replace

import numpy as np
import torch

from cl.config.programs import Linear
from cl.data.datamodule import ImageData, LoaderSettings
from cl.data.images import ImageSet, Splits, Subset, stratified
from cl.data.loader import EvalLoader
from cl.data.sampler import RankSlice, TrainSampler
from cl.data.views.draws import Ints, hash_words
from cl.data.views.spec import Norm, linear_views
from cl.errors import UserError

HELD_OUT = 0.1  # of the training images choose a point of the grid, always the same ones


def fraction_per_class(targets: Ints, fraction: float, seed: int, spare: int = 0) -> Ints:
    """Indices, ascending, of a `fraction` of each class in `targets` [N]: at least one, and at most all but `spare`."""
    order = np.argsort(hash_words(0x5A4E, seed, np.arange(len(targets))), kind="stable")
    by_class = order[np.argsort(targets[order], kind="stable")]
    _, counts = np.unique(targets, return_counts=True)
    chosen = []
    for members in np.split(by_class, counts.cumsum()[:-1]):
        wanted = max(1, round(fraction * len(members)))
        chosen.append(members[: min(wanted, len(members) - spare)])
    return np.sort(np.concatenate(chosen))


def subset_of(images: ImageSet, chosen: Ints) -> ImageSet:
    """Some of `images`; a subset of a subset is made of the original set, which loaders know best."""
    return Subset(images.images, images.chosen[chosen]) if isinstance(images, Subset) else Subset(images, chosen)


def labelled_splits(splits: Splits, config: Linear, norm: Norm | None, crop_size: int | None) -> Splits:
    """What linear evaluation trains on: labelled images, normalised as for the backbone, a fraction of each class.

    `norm` and `crop_size` are those of the backbone's own training; None where they are unknown.
    """
    splits = splits.labelled()
    if not splits.classes:
        raise UserError(f"dataset: got {config.data.dataset} without labels, expected class folders or --labels")
    notes = list(splits.notes)
    if crop_size not in (None, config.views.crop_size):
        notes.append(f"--crop_size {config.views.crop_size}, but the backbone was pretrained at {crop_size} pixels")
    splits = replace(splits, norm=norm or splits.norm, notes=tuple(notes))
    return with_label_fraction(splits, config.linear.label_fraction, config.run.seed)


def with_label_fraction(splits: Splits, fraction: float, seed: int) -> Splits:
    """`splits` with a fraction of the training images of each class, and a note if that is not all."""
    if fraction == 1:
        return splits
    train = subset_of(splits.train, fraction_per_class(splits.train.targets, fraction, seed))
    note = f"--label_fraction {fraction:g} leaves {len(train)} of {len(splits.train)} training images"
    return replace(splits, train=train, notes=(*splits.notes, note))


def split_held_out(targets: Ints) -> tuple[Ints, Ints]:
    """Indices of what a grid is trained on, and of the stratified tenth (seed 0) that chooses; no class is used up."""
    held = fraction_per_class(targets, HELD_OUT, seed=0, spare=1)
    if not len(held):
        raise UserError("--lr: got a grid, but no class has a second image to choose with; expected one rate and decay")
    return np.setdiff1d(np.arange(len(targets)), held), held


class GridData(ImageData):
    """Trains on nine tenths of the training images; what it validates on is the tenth that chooses."""

    def __init__(self, splits: Splits, settings: LoaderSettings) -> None:
        super().__init__(splits, settings)
        self.all_train = self.splits.train
        rest, held = (subset_of(self.all_train, chosen) for chosen in split_held_out(self.all_train.targets))
        self.splits = replace(self.splits, train=rest)
        self.held = held
        self.sampler = TrainSampler(
            len(rest), settings.data.batch_size, settings.seed, settings.rank_slice, settings.data.last_batch_fill
        )

    def val_dataloader(self) -> EvalLoader:
        return self.eval_loader(self.held)


def evaluation_data(splits: Splits, config: Linear, rank_slice: RankSlice, device: torch.device) -> ImageData:
    """The loaders of an evaluation; those of a grid hold out the tenth that chooses."""
    settings = LoaderSettings(config.data, linear_views(config.views), config.run.seed, rank_slice, device)
    return GridData(splits, settings) if config.holds_out else ImageData(splits, settings)


def evaluation_sets(data: ImageData, config: Linear) -> tuple[ImageSet, ImageSet | None]:
    """All training images, also the held-out ones, and the validation images; a batch of each under --fast_dev_run."""
    train = data.all_train if isinstance(data, GridData) else data.splits.train
    val = data.splits.val
    if not config.run.fast_dev_run:
        return train, val
    size = config.data.batch_size
    return stratified(train, size), stratified(val, size) if val is not None else None
