"""Image folders as a data set: listed, checked and labelled; bad files are skipped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cl.config.data import DataConfig
from cl.data.images import FileSet, Splits, measure_norm
from cl.data.sources.listing import Listing, class_names, class_notes, full_path, list_images, targets_of
from cl.data.sources.manifest import bad_files
from cl.data.views.spec import Norm
from cl.errors import UserError


def folders(config: DataConfig, norm: Norm | None) -> Splits:
    """Class folders, or a flat folder with or without a file of labels. Files that do not decode are skipped."""
    flags = ["train_dir"] if config.val_dir is None else ["train_dir", "val_dir"]
    listings = [_listing(config, flag) for flag in flags]
    bad = _bad_images(listings)
    if bad and config.bad_images == "error":
        file, reason = next(iter(bad.items()))
        others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"--bad_images: got error, but {file} is bad ({reason}){others}; expected only good images, or skip"
        )
    train, *val = [_without_bad(listing, bad) for listing in listings]  # val: one listing or none
    if not train.files:
        raise UserError(f"--train_dir: got {train.root}, expected readable images; none of its files can be decoded")
    classes = class_names(train)
    notes = [note for listing in listings for note in listing.notes]
    if bad:
        file, reason = next(iter(bad.items()))
        notes.append(f"{len(bad)} bad images are skipped, the first: {file} ({reason})")
    notes += [note for listing in val for note in class_notes(train, listing, classes)]
    sets = [_labelled(listing, classes, config.in_channels) for listing in (train, *val)]
    return Splits(
        train=sets[0],
        val=sets[1] if val and val[0].files else None,
        classes=classes,
        norm=norm or measure_norm(sets[0]),
        notes=tuple(notes),
        bad=bad,
    )


def _listing(config: DataConfig, flag: str) -> Listing:
    labels = full_path(config, config.labels) if config.labels else None
    return list_images(full_path(config, vars(config)[flag]), flag, labels)


def _bad_images(listings: Sequence[Listing]) -> dict[Path, str]:
    """The files that do not decode, and the reason."""
    return {
        listing.root / name: reason
        for listing in listings
        for name, reason in bad_files(listing.root, listing.files).items()
    }


def _labelled(listing: Listing, classes: Sequence[str], channels: int) -> FileSet:
    targets = np.array(targets_of(listing, classes), np.int64)
    return FileSet(root=listing.root, files=listing.files, targets=targets, channels=channels)


def _without_bad(listing: Listing, bad: Mapping[Path, str]) -> Listing:
    good = [i for i, name in enumerate(listing.files) if listing.root / name not in bad]
    files = tuple(listing.files[i] for i in good)
    classes = tuple(listing.classes[i] for i in good)
    return replace(listing, files=files, classes=classes)
