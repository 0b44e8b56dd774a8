"""The data sets by name: what `dataset` on the command line stands for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cl.config.data import DataConfig
from cl.data.images import ArraySet, FileSet, Splits, measure_norm, stratified
from cl.data.sources.archives import archive
from cl.data.sources.listing import Listing, class_names, class_notes, list_images, located, targets_of
from cl.data.sources.manifest import bad_files
from cl.data.views.spec import Norm
from cl.errors import UserError

IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMS: Mapping[str, Norm] = {  # of the pixels of the training images, in colour
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4408, 0.4279, 0.3867), (0.2683, 0.2610, 0.2687)),
    "imagenet100": IMAGENET,
    "imagenet": IMAGENET,
}


def load(config: DataConfig) -> Splits:
    """The data set that the flags name."""
    if config.dataset == "digits":
        splits = digits(config.in_channels)
    elif config.train_dir is None:
        splits = archive(config, NORMS[config.dataset])
    else:
        splits = folders(config)
    if config.limit_eval is not None and splits.val is not None:
        splits = replace(splits, val=stratified(splits.val, config.limit_eval))
    return splits


def digits(channels: int = 3) -> Splits:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, a fifth of each class held out (seed 0); no download."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    images, targets = grey.expand(-1, channels, -1, -1), labels.astype(np.int64)
    sets = [ArraySet(images[split], targets[split]) for split in (train, val)]
    return Splits(sets[0], sets[1], tuple("0123456789"), ((0.3054,) * channels, (0.3760,) * channels))


def folders(config: DataConfig) -> Splits:
    """Class folders, or a flat folder without labels or with a file of them. Files that do not decode are left out."""
    labels = located(config, config.labels) if config.labels else None
    listed = {"train_dir": _listing(config, "train_dir", labels)}
    if config.val_dir is not None:
        listed["val_dir"] = _listing(config, "val_dir", labels)
    bad = {each.root / name: why for each in listed.values() for name, why in bad_files(each.root, each.files).items()}
    if bad and config.bad_images == "error":
        file, reason = next(iter(bad.items()))
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(f"--bad_images: got error, and {file} is bad ({reason}){more}; expected good images, or skip")
    train, *rest = [_without(each, bad) for each in listed.values()]
    if not train.files:
        raise UserError(f"--train_dir: got {train.root}, expected images that decode; none of its files does")
    classes = class_names(train)
    notes = [note for each in listed.values() for note in each.notes]
    notes += [f"{len(bad)} bad images are left out, the first: {file} ({bad[file]})" for file in list(bad)[:1]]
    notes += [note for val in rest for note in class_notes(train, val, classes)]
    sets = [
        FileSet(each.root, each.files, np.array(targets_of(each, classes), np.int64), config.in_channels)
        for each in (train, *rest)
    ]
    norm = NORMS.get(config.dataset) if config.in_channels == 3 else None
    val = sets[1] if rest and rest[0].files else None
    return Splits(sets[0], val, classes, norm or measure_norm(sets[0]), tuple(notes), bad)


def _listing(config: DataConfig, flag: str, labels: Path | None) -> Listing:
    return list_images(located(config, vars(config)[flag]), flag, labels)


def _without(listing: Listing, bad: Mapping[Path, str]) -> Listing:
    good = [i for i, name in enumerate(listing.files) if listing.root / name not in bad]
    files, classes = tuple(listing.files[i] for i in good), tuple(listing.classes[i] for i in good)
    return replace(listing, files=files, classes=classes)
