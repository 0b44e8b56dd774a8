"""Which files below a folder are looked at: one rule for training, evaluation, the check and embed."""

import os
from array import array
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from stat import S_ISREG

from cl.config.data import COLOURS
from cl.data.decoding.formats import HEAD, PLUGINS, image_suffixes, is_image_name, kind_of

# Made by desktops, archivers and NAS devices; a "." in front hides everything else of that kind.
SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "__pycache__", "lost+found", "network trash folder", "temporary items"),
        *("$recycle.bin", "recycler", "system volume information"),
        *("@eadir", "@recently-snapshot", "@recycle", "@tmp", "#recycle", "#snapshot", "~snapshot"),
    }
)
MAX_HIDDEN = 1000  # images that are counted; a NAS may keep snapshots of the whole data set
MAX_HEADS = 1000  # files without an image's suffix whose first bytes are read


@dataclass
class Found:
    """The files below a folder, relative to the root: in byte order, those of a folder before those of its folders."""

    images: list[str] = field(default_factory=list)
    stamps: "array[int]" = field(default_factory=lambda: array("q"))  # size and modification time of each of `images`
    hidden: list[str] = field(default_factory=list)  # with an image's suffix, hidden or in a hidden folder
    others: list[str] = field(default_factory=list)  # without an image's suffix


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out, and all that is below it."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def walk(root: Path, folder: str = "", channels: int = COLOURS) -> Found:
    """The files at any depth below root/folder; links are followed. OSError if a folder cannot be listed."""
    found = Found()
    _walk_into(found, root, folder, channels)
    return found


def _walk_into(found: Found, root: Path, folder: str, channels: int) -> None:
    for below in add_files(found, root, folder, channels):
        _walk_into(found, root, below, channels)


def add_files(found: Found, root: Path, folder: str, channels: int) -> list[str]:
    """Add the files that lie directly in root/folder, by their names; return the folders that are looked into.

    Their content is checked later. A dangling link counts as a file, so that it is reported.
    """
    folders = []
    suffixes = image_suffixes(channels)
    prefix = os.path.join(folder, "")
    with os.scandir(root / folder) as scan:
        entries = {entry.name: entry for entry in scan}
    for name in _in_byte_order(entries):
        entry = entries[name]
        if is_hidden(name):
            _add_hidden(found, root, prefix + name, channels)
        elif not _is_folder(entry):
            if name[name.rfind(".") :].lower() in suffixes:
                found.images.append(prefix + name)
                found.stamps.extend(stamp(entry))
            else:
                found.others.append(prefix + name)
        elif not _is_cycle(entry):
            folders.append(prefix + name)
    return folders


def _in_byte_order(names: Collection[str]) -> list[str]:
    return sorted(names) if all(map(str.isascii, names)) else sorted(names, key=os.fsencode)


def stamp(file: "Path | os.DirEntry[str]") -> tuple[int, int]:
    """Size and modification time in ns, which identify a file's content; -1 for what is no file or cannot be found."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else (-1, -1)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: reported as an image that cannot be read
        return False


def _is_cycle(folder: "os.DirEntry[str]") -> bool:
    """Whether the folder is a link to one of its parents: walking it would never end."""
    parents = Path(os.path.abspath(folder)).parents
    return folder.is_symlink() and os.path.realpath(folder) in map(os.path.realpath, parents)


def _add_hidden(found: Found, root: Path, path: str, channels: int) -> None:
    """Add what looks like an image, up to MAX_HIDDEN. Folders that cannot be listed are passed over: none is used."""
    if is_image_name(path, channels) and not os.path.isdir(root / path):
        found.hidden.append(path)
    below = (os.path.join(folder, name) for folder, _, names in os.walk(root / path) for name in names)
    images = (os.path.relpath(file, root) for file in below if is_image_name(file, channels))
    found.hidden += islice(images, max(0, MAX_HIDDEN - len(found.hidden)))


def left_out(root: Path, found: Found) -> list[str]:
    """What the walk left out that may be images, one sentence for each kind."""
    notes = []
    if found.hidden:
        count = f"{'at least ' if len(found.hidden) >= MAX_HIDDEN else ''}{len(found.hidden)}"
        notes.append(
            f"{root}: {count} images with hidden names or in hidden or system folders are left out, "
            f"the first: {found.hidden[0]}"
        )
    by_kind = defaultdict(list)
    for path in found.others[:MAX_HEADS]:
        kind = kind_of(_head(root / path), path)
        if kind is not None:
            by_kind[kind].append(path)
    notes += [f"{root}: {_describe(kind, paths)}" for kind, paths in by_kind.items()]
    return notes


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _describe(kind: str, paths: Sequence[str]) -> str:
    files = f"{len(paths)} {kind} files are left out, the first: {paths[0]}"
    if kind in PLUGINS:
        return f"{files}; they are read with {PLUGINS[kind].package} installed"
    if kind in ("DICOM", "OpenEXR", "Radiance", "raw photograph"):
        return f"{files}; convert them to PNG or TIFF"
    return f"{files}; name them with the suffix of their format"
