"""Image folders as a data set: listed, checked, labelled, with bad files left out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cl.config.data import DataConfig
from cl.data.images import FileSet, Splits, measure_norm
from cl.data.sources.listing import Listing, class_names, class_notes, list_images, located, targets_of
from cl.data.sources.manifest import bad_files
from cl.data.views.spec import Norm
from cl.errors import UserError


def folders(config: DataConfig, norm: Norm | None) -> Splits:
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
    val = sets[1] if rest and rest[0].files else None
    return Splits(sets[0], val, classes, norm or measure_norm(sets[0]), tuple(notes), bad)


def _listing(config: DataConfig, flag: str, labels: Path | None) -> Listing:
    return list_images(located(config, vars(config)[flag]), flag, labels)


def _without(listing: Listing, bad: Mapping[Path, str]) -> Listing:
    good = [i for i, name in enumerate(listing.files) if listing.root / name not in bad]
    files = tuple(listing.files[i] for i in good)
    classes = tuple(listing.classes[i] for i in good)
    return replace(listing, files=files, classes=classes)
