"""Image folders: are they there, which files and classes are in them. No torch: a wrong folder is told at once."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cl.config.data import DataConfig
from cl.errors import UserError

BUILT_IN = ("digits",)
ARCHIVES = ("cifar10", "cifar100", "stl10")  # torchvision has them; class folders do as well
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
UNLABELLED = ("", "-1")  # in a file of labels


@dataclass(frozen=True)
class Listing:
    """The image files of a folder in the order of their bytes, and the class of each, None without one."""

    root: Path
    files: tuple[str, ...]  # relative to root
    classes: tuple[str | None, ...]
    notes: tuple[str, ...] = ()  # what the user should know


def check_folders(config: DataConfig) -> None:
    """UserError unless every folder that the run would read is there and has something in it."""
    named = {"train_dir": config.train_dir, "val_dir": config.val_dir}
    if config.dataset in BUILT_IN:
        for flag, folder in ({"data_folder": config.data_folder, "labels": config.labels} | named).items():
            if folder is not None:
                raise UserError(f"--{flag}: got {folder}, expected none: {config.dataset} comes with the program")
        return
    if config.train_dir is None and config.dataset in ARCHIVES:
        for flag, given in (("val_dir", config.val_dir), ("labels", config.labels)):
            if given is not None:
                raise UserError(f"--{flag}: got {given} without --train_dir, expected both, or neither for the archive")
        return
    if config.data_folder is not None:
        _check_folder("data_folder", Path(config.data_folder))
    if config.train_dir is None:
        raise UserError(f"--train_dir: not given, expected the folder of {config.dataset}'s training images")
    for flag, folder in named.items():
        if folder is not None:
            _check_folder(flag, located(config, folder))
    if config.labels is not None and (kind := _kind("labels", located(config, config.labels))) != "a file":
        raise UserError(f"--labels: got {located(config, config.labels)}, expected a CSV file; there is {kind}")


def located(config: DataConfig, path: str) -> Path:
    """A path of the flags, relative to --data_folder if there is one."""
    return Path(config.data_folder or "") / path


def _check_folder(flag: str, folder: Path) -> None:
    kind = _kind(flag, folder)
    if kind != "a folder":
        raise UserError(f"--{flag}: got {folder}, expected a folder of images; there is {kind} at that path")


def _kind(flag: str, path: Path) -> str:
    """What lies at a path that was typed."""
    try:
        if path.is_dir():
            return "a folder" if any(path.iterdir()) else "an empty folder"
        return "a file" if path.is_file() else "a device or pipe" if path.exists() else "nothing"
    except OSError as error:
        raise UserError(f"--{flag}: got {path}, which cannot be read ({error.strerror})") from None


def list_images(root: Path, flag: str, labels: Path | None = None) -> Listing:
    """The images under `root`: one folder a class, nested at will; or flat, with a file of labels or none."""
    names = sorted(os.listdir(root), key=os.fsencode)
    folders = [name for name in names if (root / name).is_dir() and not name.startswith(".")]
    flat = [name for name in names if _is_image(root / name)]
    if labels is not None:
        return _with_labels(Listing(root, tuple(flat), (None,) * len(flat)), labels, flag)
    if not folders:
        if not flat:
            raise UserError(f"--{flag}: got {root}, expected images ({', '.join(SUFFIXES)}); there are none")
        return Listing(root, tuple(flat), (None,) * len(flat))
    found = {name: tuple(images_below(root, name)) for name in folders}
    notes = [f"{root}: the class folder {name} has no images" for name, files in found.items() if not files]
    if flat:
        notes.append(f"{root}: {len(flat)} images beside the class folders are left out")
    pairs = [(file, name) for name, files in found.items() for file in files]
    if not pairs:
        raise UserError(f"--{flag}: got {root}, expected images in its {len(folders)} class folders; there are none")
    return Listing(root, tuple(file for file, _ in pairs), tuple(name for _, name in pairs), tuple(notes))


def _is_image(path: Path) -> bool:
    """By its name: what is inside is looked at later. A dangling link is listed, so that it is reported."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and not path.is_dir()


def images_below(root: Path, folder: str = "") -> Iterator[str]:
    """The images anywhere under root/folder, relative to root, in the order of their bytes; links are followed."""
    for where, folders, names in os.walk(root / folder, followlinks=True):
        folders[:] = sorted((each for each in folders if not _leads_back(os.path.join(where, each))), key=os.fsencode)
        for name in sorted(names, key=os.fsencode):
            if _is_image(Path(where) / name):
                yield os.path.relpath(os.path.join(where, name), root)


def _leads_back(folder: str) -> bool:
    """Whether it is a link to a folder that it lies in: there would be no end to what is below."""
    above = Path(os.path.abspath(folder)).parents
    return os.path.islink(folder) and os.path.realpath(folder) in map(os.path.realpath, above)


def _with_labels(listing: Listing, labels: Path, flag: str) -> Listing:
    """Classes from a CSV file of two columns, file name and label; a first line that names no file is its heading."""
    try:
        with labels.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:  # -sig: Excel's mark
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, csv.Error) as error:
        raise UserError(f"--labels: got {labels}, which cannot be read as CSV ({error})") from None
    if any(len(row) < 2 for row in rows):
        raise UserError(f"--labels: got {labels}, expected two columns: file name, label")
    label: dict[str, str] = {}
    for name, text in ((row[0], row[1].strip()) for row in rows):
        if label.setdefault(name, text) != text:
            raise UserError(f"--labels: got {labels}, expected one label a file; {name} has {label[name]} and {text}")
    if not any(name in label for name in listing.files):
        raise UserError(f"--labels: got {labels}, expected the names of files in {listing.root}; it has none of them")
    classes = tuple(None if label.get(name, "") in UNLABELLED else label[name] for name in listing.files)
    without = sum(name not in label for name in listing.files)
    notes = (f"{labels} says nothing of {without} images of --{flag}: they are unlabelled",) if without else ()
    return Listing(listing.root, listing.files, classes, notes)


def class_names(train: Listing) -> tuple[str, ...]:
    """The classes in lexical order of their bytes, never natural order: label i is class i everywhere."""
    return tuple(sorted({name for name in train.classes if name is not None}, key=os.fsencode))


def targets_of(listing: Listing, classes: Sequence[str]) -> list[int]:
    """The label of each file under the training set's class map, -1 without one; an unknown class is an error."""
    number = {name: label for label, name in enumerate(classes)}
    unknown = sorted({name for name in listing.classes if name is not None and name not in number}, key=os.fsencode)
    if unknown:
        raise UserError(
            f"--val_dir: got {listing.root} with class {', '.join(unknown[:5])}{', ...' * (len(unknown) > 5)}, "
            f"expected only the {len(classes)} classes of the training images"
        )
    return [-1 if name is None else number[name] for name in listing.classes]


def class_notes(train: Listing, val: Listing, classes: Sequence[str]) -> list[str]:
    """Classes that cannot be validated, and classes of a single image."""
    missing = [name for name in classes if name not in set(val.classes)]
    notes = [f"no validation images of class {', '.join(missing)}"] if missing and any(val.classes) else []
    single = [name for name, count in Counter(train.classes).items() if count == 1 and name is not None]
    return notes + ([f"only one training image of class {', '.join(single)}"] if single else [])
