"""Image folders: check that they exist, list their files and classes. No torch: a wrong folder is reported at once."""

import csv
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

from tqdm import tqdm

from cl.config.data import ARCHIVES, BUILT_IN, COLOURS, DataConfig
from cl.data.sources.places import FOLDER, full_path, prefix_of
from cl.data.sources.walk import Found, add_files, left_out, walk
from cl.errors import UserError, mentioning, one_line

UNLABELLED = ("", "-1")  # in a file of labels


@dataclass(frozen=True)
class Listing:
    """The image files of a folder in byte order, and the class of each, None without a label."""

    root: Path
    files: tuple[str, ...]  # relative to root
    classes: tuple[str | None, ...]
    stamps: "array[int]"  # size and modification time of each file, one after another
    left_out: tuple[str, ...] = ()  # what was not taken, and why


def check_folders(config: DataConfig) -> None:
    """Raise UserError unless every folder that the run would read exists and is not empty."""
    image_folders = {"train_dir": config.train_dir, "val_dir": config.val_dir}
    _check_columns(config)
    _check_remote_cache(config)
    if config.dataset in BUILT_IN:
        paths = {"data_folder": config.data_folder, "labels": config.labels} | image_folders
        for flag, path in paths.items():
            if path is not None:
                raise UserError(f"--{flag}: got {path}, expected no --{flag}: {config.dataset} is built in")
        return
    if config.train_dir is None and config.dataset in ARCHIVES:
        for flag, path in (("val_dir", config.val_dir), ("labels", config.labels)):
            if path is not None:
                raise UserError(f"--{flag}: got {path} without --train_dir, expected both, or neither for the archive")
        if config.in_channels > COLOURS:
            raise UserError(
                f"--in_channels: got {config.in_channels} with the archive of {config.dataset}, expected 3 or 1"
            )
        return
    if config.data_folder is not None:
        _check_folder("data_folder", Path(config.data_folder))
    if config.train_dir is None:
        raise UserError(f"--train_dir: not given, expected the folder of {config.dataset}'s training images")
    for flag, folder in image_folders.items():
        if folder is not None and prefix_of(config, folder) == FOLDER:  # others are opened by what knows them
            _check_folder(flag, full_path(config, folder))
    if config.labels is not None:
        _check_labels(full_path(config, config.labels))


def _check_columns(config: DataConfig) -> None:
    prefixes = {prefix_of(config, path) for path in (config.train_dir, config.val_dir) if path is not None}
    for flag, column, packed in (
        ("label_column", config.label_column, {"tar", "hf"}),
        ("image_column", config.image_column, {"hf"}),
    ):
        if column is not None and not prefixes & packed:
            expected = " or ".join(f"{prefix}/..." for prefix in sorted(packed))
            raise UserError(f"--{flag}: got {column} with --train_dir {config.train_dir}, expected {expected}")


def _check_remote_cache(config: DataConfig) -> None:
    if config.remote_cache is not None and not any(
        "://" in path for path in (config.train_dir or "", config.val_dir or "")
    ):
        raise UserError(
            f"--remote_cache: got {config.remote_cache:g} with --train_dir {config.train_dir}, expected remote shards "
            "such as tar/s3://..."
        )


def _check_labels(path: Path) -> None:
    kind = _kind_of("labels", path)
    if kind != "a file":
        raise UserError(f"--labels: got {path}, expected a CSV file; there is {kind} at that path")


def _check_folder(flag: str, folder: Path) -> None:
    kind = _kind_of(flag, folder)
    if kind != "a folder":
        raise UserError(f"--{flag}: got {folder}, expected a folder of images; there is {kind} at that path")


def _kind_of(flag: str, path: Path) -> str:
    """What a path from the flags leads to."""
    try:
        if path.is_dir():
            return "a folder" if any(path.iterdir()) else "an empty folder"
        if path.is_file():
            return "a file"
        return "a device or pipe" if path.exists() else "nothing"
    except OSError as error:
        raise UserError(f"--{flag}: got {path}, which cannot be read ({error.strerror})") from None


def list_images(root: Path, argument: str, labels: Path | None = None, channels: int = COLOURS) -> Listing:
    """List the images under `root`: one folder per class, at any depth; or a flat folder, with or without labels."""
    flat, by_class = _walk_classes(root, argument, channels)
    left_out = _left_out(root, flat, by_class)
    if labels is not None:
        with mentioning(left_out):
            return _with_labels(_flat(root, flat, left_out), labels, argument)
    without = [name for name, found in by_class.items() if not found.images]
    if len(without) < len(by_class):
        notes = [f"{root}: the class folder {name} has no images" for name in without]
        if flat.images:
            notes.append(f"{root}: {len(flat.images)} images outside the class folders are skipped")
        files = tuple(chain.from_iterable(found.images for found in by_class.values()))
        classes = tuple(chain.from_iterable(repeat(name, len(found.images)) for name, found in by_class.items()))
        stamps = array("q", chain.from_iterable(found.stamps for found in by_class.values()))
        return Listing(root, files, classes, stamps, (*notes, *left_out))
    if flat.images:
        notes = [f"{root}: taken as a flat folder, since its {len(without)} folders have no images"] if without else []
        return _flat(root, flat, (*notes, *left_out))
    where = f" in its {len(without)} class folders" if without else ""
    with mentioning(left_out):
        raise UserError(f"{argument}: got {root}, expected images{where}, such as .jpg or .png files; there are none")


def _flat(root: Path, found: Found, left_out: tuple[str, ...]) -> Listing:
    return Listing(root, tuple(found.images), (None,) * len(found.images), found.stamps, left_out)


def _walk_classes(root: Path, argument: str, channels: int) -> tuple[Found, dict[str, Found]]:
    """What lies directly in `root`, and what lies below each of its folders."""
    flat = Found()
    by_class = {}
    hidden = not sys.stderr.isatty()
    try:
        with tqdm(desc=one_line(f"listing {root}"), leave=False, unit="image", disable=hidden) as bar:
            for name in add_files(flat, root, "", channels):
                by_class[name] = walk(root, name, channels)
                bar.update(len(by_class[name].images))
    except OSError as error:
        raise unlistable(f"{argument}: got {root}", error) from None
    return flat, by_class


def unlistable(given: str, error: OSError) -> UserError:
    return UserError(f"{given}, but {error.filename} cannot be listed ({error.strerror}); expected readable folders")


def _left_out(root: Path, flat: Found, by_class: Mapping[str, Found]) -> tuple[str, ...]:
    everything = (flat, *by_class.values())
    hidden = [path for found in everything for path in found.hidden]
    others = [path for found in everything for path in found.others]
    return tuple(left_out(root, Found(hidden=hidden, others=others)))


def _with_labels(listing: Listing, labels: Path, argument: str) -> Listing:
    """Take classes from a CSV file with two columns, file name and label; a heading is ignored."""
    try:
        with labels.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:  # -sig: Excel's BOM
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, csv.Error) as error:
        raise UserError(f"--labels: got {labels}, which cannot be read as CSV ({error})") from None
    if any(len(row) < 2 for row in rows):
        raise UserError(f"--labels: got {labels}, expected two columns: file name, label")
    label_of: dict[str, str] = {}
    for name, label in ((row[0], row[1].strip()) for row in rows):
        first = label_of.setdefault(name, label)
        if first != label:
            raise UserError(f"--labels: got {labels}, expected one label per file; {name} has {first} and {label}")
    if not any(name in label_of for name in listing.files):
        raise UserError(f"--labels: got {labels}, expected the names of files in {listing.root}; it names none of them")
    classes = tuple(None if label_of.get(name, "") in UNLABELLED else label_of[name] for name in listing.files)
    missing = sum(name not in label_of for name in listing.files)
    notes = (f"{labels} has no row for {missing} images of {argument}: they are unlabelled",) if missing else ()
    return replace(listing, classes=classes, left_out=(*notes, *listing.left_out))
