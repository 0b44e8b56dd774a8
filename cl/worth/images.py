"""The images that networks are compared on: where they come from, and what the networks have seen of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cl.config.data import DataConfig
from cl.data.images import ImageSet, Splits, Subset, stratified
from cl.data.sources.listing import check_folders
from cl.data.sources.registry import load
from cl.data.splitting.hold_out import labelled_split
from cl.errors import UserError, mentioning
from cl.run.folder.held_out import same_held_out
from cl.worth.runs import Run

BANK = 20_000  # labelled training images at most, as for kNN during training
TEST = 10_000  # at most
FEWEST = 20  # labelled images to learn from, and to test on


@dataclass(frozen=True)
class Images:
    """Labelled images to learn from and others to test on; without labels only `test`."""

    bank: ImageSet | None
    test: ImageSet
    classes: tuple[str, ...]
    source: str  # of the test images, a clause


def images_of(runs: Sequence[Run], config: DataConfig, use_labels: bool) -> Images:
    """The runs' validation images, else those that they held out, else a part of their training images."""
    card = runs[0].backbone.card
    with mentioning([f"as in the config.json of {runs[0].name}"]):
        check_folders(config)
    splits = load(replace(config, mean=card.mean, std=card.std))
    for run in runs if config.hold_out is not None else ():
        if same_held_out(run.folder, splits.held_out):
            continue
        raise UserError(
            f"RUN: got {run.name}, whose held-out images are no longer those of --hold_out {config.hold_out:g}: the "
            f"files of --train_dir {config.train_dir} have changed; expected the images of the run"
        )
    if use_labels and splits.classes:
        return _labelled(runs, config, splits)
    test = splits.val if splits.val is not None else splits.train
    return Images(None, stratified(test, TEST), (), _source(config, splits, "seen them in training"))


def _labelled(runs: Sequence[Run], config: DataConfig, splits: Splits) -> Images:
    seen = "seen them in training, without their labels"
    train = splits.labelled().train
    bank: ImageSet
    if splits.val is None:
        _refuse_seen_labels(runs)
        bank, test = (Subset(train, rows) for rows in labelled_split(train))
    else:
        bank = train
        test = Subset(splits.val, np.flatnonzero(splits.val.targets >= 0))
    _refuse_few_labels(runs[0], bank, test)
    return Images(stratified(bank, BANK), stratified(test, TEST), splits.classes, _source(config, splits, seen))


def _refuse_seen_labels(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.config.method.uses_labels:
            raise UserError(
                f"RUN: got {run.name}, trained by {run.config.method.method} with the labels of all its images, "
                "expected a run with --val_dir or --hold_out: no image is left to test it on"
            )


def _source(config: DataConfig, splits: Splits, seen: str) -> str:
    if splits.val is None:
        return f"there is no --val_dir and no --hold_out: every network trained here has {seen}"
    if config.hold_out is not None:
        return "held out of the training by --hold_out"
    return "validation images of the run"


def _refuse_few_labels(run: Run, bank: ImageSet, test: ImageSet) -> None:
    classes = len(np.unique(bank.targets))
    if min(len(bank), len(test)) >= FEWEST and classes >= 2:
        return
    raise UserError(
        f"RUN: got {run.name} with {len(bank)} labelled images of {classes} classes to learn from and {len(test)} to "
        f"test on, expected at least {FEWEST} of each and 2 classes; --no_labels compares without them"
    )


def loading(run: Run, num_workers: int | None, batch_size: int) -> DataConfig:
    """How the run's images are read here: of its flags only those that say which images they are."""
    data = run.config.data
    plain = DataConfig(data.dataset, batch_size=batch_size, num_workers=num_workers, bad_images="skip")
    where = ("data_folder", "train_dir", "val_dir", "labels", "label_column", "image_column")
    which = (*where, "hold_out", "limit_eval", "in_channels")
    return replace(plain, **{flag: vars(data)[flag] for flag in which})
