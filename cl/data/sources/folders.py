"""Image folders as a data set: listed, checked and labelled; bad files are skipped."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from cl.config.data import DataConfig
from cl.data.images import FileSet, Splits, measure_norm
from cl.data.sources.index import Index, mapped
from cl.data.sources.listing import (
    Listing,
    check_labelled_alike,
    class_names,
    class_notes,
    full_path,
    list_images,
    targets_of,
)
from cl.data.sources.manifest import bad_files, check_file
from cl.data.sources.names import FileNames
from cl.data.views.spec import Norm
from cl.errors import UserError, mentioning


def folders(config: DataConfig, norm: Norm | None) -> Splits:
    """Class folders, or a flat folder with or without a file of labels. Files that do not decode are skipped."""
    flags = ["train_dir"] if config.val_dir is None else ["train_dir", "val_dir"]
    listings = {flag: _listing(config, flag) for flag in flags}
    bad = {
        listing.root / name: reason
        for flag, listing in listings.items()
        for name, reason in _bad_files(config, flag, listing).items()
    }
    left_out = [note for listing in listings.values() for note in listing.left_out]
    if bad and config.bad_images == "error":
        raise _bad_images_refused(bad)
    if bad:
        file, reason = next(iter(bad.items()))
        left_out.append(f"{len(bad)} bad images are skipped, the first: {file} ({reason})")
    with mentioning(left_out):
        return _splits(config, norm, listings, bad, tuple(left_out))


def _splits(
    config: DataConfig,
    norm: Norm | None,
    listings: Mapping[str, Listing],
    bad: Mapping[Path, str],
    left_out: tuple[str, ...],
) -> Splits:
    good = {flag: _without_bad(listing, bad) for flag, listing in listings.items()}
    for flag, listing in good.items():
        if not listing.files:
            raise UserError(f"--{flag}: got {listing.root}, expected readable images; none of its files can be decoded")
    train, val = good["train_dir"], good.get("val_dir")
    classes = class_names(train)
    if val is not None:
        check_labelled_alike(val, classes)
    train_set = _labelled(train, classes, config.in_channels)
    return Splits(
        train=train_set,
        val=_labelled(val, classes, config.in_channels) if val is not None else None,
        classes=classes,
        norm=norm or measure_norm(train_set, trusted=config.bad_images == "trust"),
        notes=tuple(class_notes(train, val, classes)) if val is not None else (),
        left_out=left_out,
        bad=bad,
    )


def _listing(config: DataConfig, flag: str) -> Listing:
    labels = full_path(config, config.labels) if config.labels else None
    return list_images(full_path(config, vars(config)[flag]), f"--{flag}", labels, config.in_channels)


def _bad_files(config: DataConfig, flag: str, listing: Listing) -> dict[str, str]:
    """The files that are not usable images, and the reason; of trusted images those that are no files."""
    if config.bad_images != "trust" or flag == "val_dir":  # each validation image counts once, so none is replaced
        return bad_files(listing.root, listing.files, config.in_channels, listing.stamps)
    missing = [name for name, size in zip(listing.files, listing.stamps[::2], strict=True) if size < 0]
    checks = {name: check_file(listing.root / name, config.in_channels) for name in missing}
    return {name: check.reason for name, check in checks.items() if check.reason}


def _bad_images_refused(bad: Mapping[Path, str]) -> UserError:
    file, reason = next(iter(bad.items()))
    others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    return UserError(
        f"--bad_images: got error, but {file} is bad ({reason}){others}; expected only good images, or skip"
    )


def _labelled(listing: Listing, classes: Sequence[str], channels: int) -> FileSet:
    """The images of a listing, with labels of the smallest type that holds all."""
    kind = np.min_scalar_type(-max(1, len(classes)))
    targets = np.array(targets_of(listing, classes), kind)
    index = mapped(listing.root, Index(FileNames.of(listing.files), targets))
    return FileSet(listing.root, index.names, index.targets, channels, index.folder)


def _without_bad(listing: Listing, bad: Mapping[Path, str]) -> Listing:
    if not bad:
        return listing
    names = {os.path.relpath(path, listing.root) for path in bad}
    good = [name not in names for name in listing.files]
    return replace(listing, files=tuple(compress(listing.files, good)), classes=tuple(compress(listing.classes, good)))
