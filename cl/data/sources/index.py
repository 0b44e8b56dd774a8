"""The index of a data set of files: names and labels in a folder of the user's cache, memory-mapped by every process.

It is written under a temporary name and renamed, and its own name has a digest of its content: what exists is complete.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl.data.sources.names import FileNames
from cl.data.views.draws import Labels
from cl.machine.home import cache_folder


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
    series = f"index-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}"
    folder = parent / f"{series}-{_digest(index)}"
    try:
        if not folder.is_dir():
            _write(folder, index)
            for former in parent.glob(f"{series}-*"):  # a process that has mapped it keeps its files
                if former != folder:
                    shutil.rmtree(former, ignore_errors=True)
        return open_index(folder)
    except (OSError, ValueError):
        return index


def open_index(folder: Path) -> Index:
    """Map an index; nothing is read. OSError or ValueError if it is not there."""
    names = FileNames(_map(folder / "text.npy"), _map(folder / "ends.npy"))
    if (folder / "targets.npy").exists():
        return Index(names, _map(folder / "targets.npy"), folder)
    return Index(names, unlabelled(len(names)), folder)


def unlabelled(images: int) -> Labels:
    """-1 for each image [N], stored once."""
    return np.broadcast_to(np.array([-1], np.int8), (images,))


def _map(path: Path) -> NDArray[Any]:
    return np.asarray(np.load(path, mmap_mode="r"))


def _digest(index: Index) -> str:
    digest = hashlib.sha256(f"{index.targets.dtype} {len(index.names)} ".encode())
    for array in (index.names.text, index.names.ends, index.targets):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _write(folder: Path, index: Index) -> None:
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        np.save(temporary / "text.npy", index.names.text)
        np.save(temporary / "ends.npy", index.names.ends)
        if index.targets.max() >= 0:
            np.save(temporary / "targets.npy", index.targets)
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # another process was faster
            raise
