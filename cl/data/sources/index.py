"""The index of a data set of files: names and labels in a folder of the user's cache, memory-mapped by every process.

It is written under a temporary name and renamed, and its own name has a digest of its content: what exists is complete.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl.data.sources.names import FileNames
from cl.data.sources.places import absolute
from cl.data.views.draws import Labels
from cl.machine.home import cache_folder
from cl.machine.kept_files import kept_folder, reading


class Index(NamedTuple):
    """Names and labels [N], and the folder that they are mapped from; None if they are in memory."""

    names: FileNames
    targets: Labels
    folder: Path | None = None


def mapped(root: Path, index: Index) -> Index:
    """The same index, mapped from a folder, which is written if it does not exist; unchanged if that is impossible."""
    parent = cache_folder()
    if parent is None or not len(index.names):
        return index
    series = f"index-{hashlib.sha256(os.fsencode(absolute(root))).hexdigest()[:16]}"
    folder = parent / f"{series}-{_digest(index)}"
    return kept_folder(folder, series, open_index, lambda: index, _write)


def open_index(folder: Path) -> Index:
    """Map an index; nothing is read. OSError if it is not there, or damaged."""
    with reading(folder):
        names = FileNames(map_array(folder / "text.npy"), map_array(folder / "ends.npy"))
        if (folder / "targets.npy").exists():
            return Index(names, map_array(folder / "targets.npy"), folder)
        return Index(names, unlabelled(len(names)), folder)


def unlabelled(images: int) -> Labels:
    """-1 for each image [N], stored once."""
    return np.broadcast_to(np.array([-1], np.int8), (images,))


def map_array(path: Path) -> NDArray[Any]:
    """The array of a file, of which nothing is read yet."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _digest(index: Index) -> str:
    digest = hashlib.sha256(f"{index.targets.dtype} {len(index.names)} ".encode())
    for array in (index.names.text, index.names.ends, index.targets):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _write(index: Index, folder: Path) -> None:
    np.save(folder / "text.npy", index.names.text)
    np.save(folder / "ends.npy", index.names.ends)
    if index.targets.max() >= 0:
        np.save(folder / "targets.npy", index.targets)
