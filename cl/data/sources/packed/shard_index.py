"""The images of all shards, in a folder of the user's cache that every process maps; each shard is scanned once.

What is known of each shard is kept too, with its size and time: a shard that changed is scanned again, and an index
that was interrupted goes on. Folders are renamed into place: what exists is complete.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cl.data.sources.index import map_array, unlabelled
from cl.data.sources.names import FileNames
from cl.data.sources.packed.members import BadShard, Members, read_members
from cl.data.sources.packed.remote import RemoteFile
from cl.data.sources.places import absolute, is_remote
from cl.data.views.draws import Ints, Labels
from cl.errors import Stopped, one_line
from cl.machine.children import MEMORY, end_with_parent
from cl.machine.cores import usable_cores
from cl.machine.home import cache_folder
from cl.machine.kept_files import keep_file, kept_folder, reading

VERSION = 1  # of what an index holds
SERIAL_BYTES = 1 << 28  # up to so many bytes of shards, one process is faster than starting others
ARRAYS = ("text", "ends", "shard", "offsets", "lengths", "codes")


class Shard(NamedTuple):
    """A file of images, and what identifies its content."""

    path: str
    size: int
    time: int


class ShardIndex(NamedTuple):
    """Where the images of all shards lie. The arrays are mapped from `folder`, if there is one."""

    shards: tuple[Shard, ...]
    names: FileNames  # [N] in their shards
    shard: Ints  # [N]
    offsets: Ints  # [N]
    lengths: Ints  # [N]
    codes: Labels  # [N] into `classes`, -1 without a label
    classes: tuple[str, ...]  # in byte order
    counts: tuple[tuple[str | None, int], ...]  # images of each class
    left_out: tuple[tuple[str, int, str], ...]  # kinds of members that were not taken, how many, the first
    folder: Path | None = None


class Scanning(NamedTuple):
    """How shards are scanned."""

    channels: int
    label_field: str | None


class UnusableShard(Exception):
    """A shard, and why it cannot be used."""

    def __init__(self, path: str, reason: BadShard) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


def indexed(root: str, shards: Sequence[Shard], scanning: Scanning) -> ShardIndex:
    """The index of `shards`, as far as possible from the cache; UnusableShard if one cannot be used."""
    parent = cache_folder()
    if parent is None:
        return _joined(shards, list(_scanned(root, shards, scanning, None)))
    series = f"shards-{_digest(absolute(root), scanning)}"
    folder = parent / f"{series}-{_digest(VERSION, *shards)}"

    def joined() -> ShardIndex:
        return _joined(shards, list(_scanned(root, shards, scanning, parent)))

    return kept_folder(folder, series, open_shard_index, joined, _write)


def open_shard_index(folder: Path) -> ShardIndex:
    """Map an index; OSError if it is not there, or damaged."""
    with reading(folder):
        return _mapped(folder)


def _mapped(folder: Path) -> ShardIndex:
    about = json.loads((folder / "about.json").read_text(errors="surrogateescape"))
    arrays = {name: map_array(folder / f"{name}.npy") for name in ARRAYS if (folder / f"{name}.npy").exists()}
    return ShardIndex(
        shards=tuple(Shard(*shard) for shard in about["shards"]),
        names=FileNames(arrays["text"], arrays["ends"]),
        shard=arrays["shard"],
        offsets=arrays["offsets"],
        lengths=arrays["lengths"],
        codes=arrays["codes"] if about["classes"] else unlabelled(len(arrays["shard"])),
        classes=tuple(about["classes"]),
        counts=tuple((name, count) for name, count in about["counts"]),
        left_out=tuple((kind, count, first) for kind, count, first in about["left_out"]),
        folder=folder,
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(os.fsencode("\n".join(map(str, parts)))).hexdigest()[:16]


def _write(index: ShardIndex, folder: Path) -> None:
    about = {"shards": index.shards, "classes": index.classes, "counts": index.counts, "left_out": index.left_out}
    arrays = {"text": index.names.text, "ends": index.names.ends, **index._asdict()}
    for name in ARRAYS if index.classes else ARRAYS[:-1]:
        np.save(folder / f"{name}.npy", arrays[name])
    (folder / "about.json").write_text(json.dumps(about), errors="surrogateescape")


def _joined(shards: Sequence[Shard], found: Sequence[Members]) -> ShardIndex:
    """The images of all shards, one shard after another."""
    classes = tuple(sorted({name for members in found for name in members.classes}, key=os.fsencode))
    code = {name: number for number, name in enumerate(classes)}
    kind = np.min_scalar_type(-max(1, len(classes)))
    codes = [
        np.array([*(code[name] for name in members.classes), -1], kind)[members.codes] for members in found
    ]  # -1 takes the last
    joined = np.concatenate(codes)
    counts = np.bincount(joined.astype(np.int64) + 1, minlength=len(classes) + 1).tolist()
    kinds = dict.fromkeys(kind for members in found for kind in members.left_out)
    left_out = [(kind, [m.left_out[kind] for m in found if kind in m.left_out]) for kind in kinds]
    return ShardIndex(
        shards=tuple(shards),
        names=FileNames(
            np.concatenate([members.names.text for members in found]), _shifted([members.names for members in found])
        ),
        shard=np.repeat(np.arange(len(found), dtype=np.int32), [len(members.names) for members in found]),
        offsets=np.concatenate([members.offsets for members in found]),
        lengths=np.concatenate([members.lengths for members in found]),
        codes=joined,
        classes=classes,
        counts=tuple((name, count) for name, count in zip((None, *classes), counts, strict=True) if count),
        left_out=tuple((kind, sum(count for count, _ in each), each[0][1]) for kind, each in left_out),
    )


def _shifted(names: Sequence[FileNames]) -> Ints:
    """Where each name ends in the text of all."""
    before = np.cumsum([0, *(len(each.text) for each in names[:-1])])
    return np.concatenate([each.ends + begin for each, begin in zip(names, before, strict=True)])


def _scanned(root: str, shards: Sequence[Shard], scanning: Scanning, parent: Path | None) -> Iterator[Members]:
    """The members of each shard in turn, remembered or scanned, with a progress bar."""
    kept = [_kept_path(parent, shard, scanning) for shard in shards]
    known = [_load(path, shard) for path, shard in zip(kept, shards, strict=True)]
    new = [shard for shard, members in zip(shards, known, strict=True) if members is None]
    scans = _scan_all(new, scanning)
    hidden = not sys.stderr.isatty()
    for path, shard, members in tqdm(
        zip(kept, shards, known, strict=True),
        one_line(f"indexing {root}"),
        len(shards),
        unit="shard",
        leave=False,
        disable=hidden,
    ):
        if members is None:
            members = next(scans)
            _keep(path, shard, members)
        yield members


def _scan_all(shards: Sequence[Shard], scanning: Scanning) -> Iterator[Members]:
    scan: Callable[[Shard], Members] = partial(_scan, scanning=scanning)
    if len(shards) < 2 or sum(shard.size for shard in shards) <= SERIAL_BYTES:
        yield from map(scan, shards)
        return
    with ProcessPoolExecutor(usable_cores(), initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(scan, shards)
        except BrokenProcessPool:
            raise Stopped(f"a process that indexed shards was killed; {MEMORY}", 1) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _scan(shard: Shard, scanning: Scanning) -> Members:
    try:
        with RemoteFile.buffered(*shard[:2]) if is_remote(shard.path) else open(shard.path, "rb") as file:
            return read_members(file, shard.size, scanning.channels, scanning.label_field)
    except BadShard as reason:
        raise UnusableShard(shard.path, reason) from None
    except OSError as error:
        raise UnusableShard(shard.path, BadShard(f"it cannot be read: {error.strerror or error}")) from None


def _kept_path(parent: Path | None, shard: Shard, scanning: Scanning) -> Path | None:
    key = _digest(VERSION, absolute(shard.path), scanning)
    return parent / "shards" / f"{key}.npz" if parent is not None else None


def _keep(path: Path | None, shard: Shard, members: Members) -> None:
    if path is None:
        return
    about = {"shard": shard[1:], "classes": members.classes, "left_out": members.left_out}
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode(errors="surrogateescape"), np.uint8),
        "text": members.names.text,
        "ends": members.names.ends,
        "offsets": members.offsets,
        "lengths": members.lengths,
        "codes": members.codes,
    }
    keep_file(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _load(path: Path | None, shard: Shard) -> Members | None:
    """What is remembered of a shard; None if it is unknown or has changed."""
    if path is None:
        return None
    try:
        with reading(path), np.load(path) as saved:
            about = json.loads(saved["about"].tobytes())
            if tuple(about["shard"]) != shard[1:]:
                return None
            names = FileNames(saved["text"], saved["ends"])
            left_out = {kind: (count, first) for kind, (count, first) in about["left_out"].items()}
            return Members(names, saved["offsets"], saved["lengths"], saved["codes"], tuple(about["classes"]), left_out)
    except OSError:
        return None
