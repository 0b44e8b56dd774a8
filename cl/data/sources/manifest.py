"""Which files of a folder are usable images: checked once, and again only when a file changes."""

import csv
import fcntl
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from cl.data.decoding.decode import LASTING, MAX_BYTES, TooLittleMemory, patiently, read_image
from cl.data.decoding.modes import BadImage
from cl.data.sources.names import FileNames
from cl.data.sources.places import Name, absolute
from cl.data.sources.walk import stamp
from cl.data.views.draws import Ints
from cl.errors import Stopped, UserError, csv_cell, one_line
from cl.machine.children import MEMORY, end_with_parent
from cl.machine.cores import usable_cores
from cl.machine.home import cache_folder
from cl.machine.kept_files import keep_file, reading

T = TypeVar("T")
VERSION = 2  # of what counts as a usable image
SERIAL_LIMIT = 500  # up to this many files, one process is faster than starting a pool


class Manifest(NamedTuple):
    """Files that were read, and what was found."""

    names: FileNames  # [N]
    stamps: Ints  # [N, 2] size and modification time in ns
    reasons: Mapping[int, str]  # by position, why a file is not a usable image; the others are


class Check(NamedTuple):
    reason: str  # why the file is not a usable image, "" if it is one
    was_read: bool  # only what was read is remembered: a missing file may come back, rights may change


def bad_files(root: Path, files: Sequence[str], channels: int, stamps: Sequence[int] | None = None) -> dict[str, str]:
    """The files that are not usable images, and the reason. Files unchanged since the last check are not read again.

    `stamps` has size and modification time of each file, one after another; without, they are looked up.
    """
    stamps = stamps if stamps is not None else [number for name in files for number in stamp(root / name)]
    now = np.array(stamps, np.int64).reshape(-1, 2)

    def checks(rows: Sequence[int]) -> Iterator[Check]:
        paths = [root / files[row] for row in rows]
        return map_checks(partial(check_file, channels=channels), paths, paths[0].parent)

    reasons = bad_rows(manifest_path(root, channels), root, FileNames.of(files), now, checks)
    return {files[row]: reason for row, reason in reasons.items()}


def bad_rows(
    path: Path | None, root: Name, names: FileNames, stamps: Ints, checks: Callable[[Sequence[int]], Iterable[Check]]
) -> dict[int, str]:
    """The rows of images that are not usable, ascending, and the reason; of those in `path` with the same stamp, as
    they are remembered, of the others by `checks`.

    Args:
        path: what is remembered; None for nothing.
        root: where the images lie.
        names: [N].
        stamps: [N, 2] whatever changes with an image.
        checks: from rows to the check of each.
    """
    known = _load(path)
    row = _unchanged(known, names, stamps)
    new = np.flatnonzero(row < 0).tolist()
    known_bad = np.flatnonzero(np.isin(row, list(known.reasons))).tolist()
    reasons = {i: known.reasons[row[i]] for i in known_bad}
    unread: dict[int, str] = {}
    read = row >= 0
    title = one_line(f"checking {root}")
    hidden = not sys.stderr.isatty()
    try:
        found = tqdm(checks(new) if new else (), title, len(new), leave=False, unit="image", disable=hidden)
        for i, check in zip(new, found, strict=True):
            read[i] = check.was_read
            if check.reason:
                (reasons if check.was_read else unread)[i] = check.reason
    finally:
        if new:
            _save(path, root, _part(Manifest(names, stamps, reasons), np.flatnonzero(read)))
    return dict(sorted((reasons | unread).items()))


def _unchanged(known: Manifest, names: FileNames, stamps: Ints) -> Ints:
    """The row [N] of `known` that has the name and stamp of each file; -1 if there is none."""
    if known.names.equals(names):
        row = np.arange(len(names))
    else:
        row_of = {name: i for i, name in enumerate(known.names)}
        row = np.fromiter((row_of.get(name, -1) for name in names), np.int64, len(names))
    same = row >= 0
    same[same] = (known.stamps[row[same]] == stamps[same]).all(axis=1)
    return np.where(same, row, -1)


def _part(manifest: Manifest, rows: Ints) -> Manifest:
    """The given rows, ascending."""
    if len(rows) == len(manifest.names):
        return manifest
    position = {row: i for i, row in enumerate(rows.tolist())}
    names = FileNames.of([manifest.names[row] for row in position])
    return Manifest(names, manifest.stamps[rows], {position[row]: text for row, text in manifest.reasons.items()})


def map_checks(check: Callable[[T], Check], images: Sequence[T], where: Name) -> Iterator[Check]:
    """The check of each image in turn, by several processes if there are many."""
    if len(images) <= SERIAL_LIMIT:
        yield from map(check, images)
        return
    with ProcessPoolExecutor(usable_cores(), initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(check, images, chunksize=64)
        except BrokenProcessPool:
            raise Stopped(f"a process that checked the images of {where} was killed; {MEMORY}", 1) from None


def check_file(path: Path, channels: int) -> Check:
    """Whether a file is a usable image; UserError if the disk or network does not answer."""

    def look() -> Check:
        status = patiently(path.stat)
        if not stat.S_ISREG(status.st_mode):
            return Check("not a regular file", was_read=False)  # reading a pipe would wait for ever
        if status.st_size > MAX_BYTES:
            return Check(f"a file of {status.st_size} bytes, more than {MAX_BYTES}", was_read=True)
        read_image(path, channels)
        return Check("", was_read=True)

    return checked(path, look)


def checked(path: Name, look: Callable[[], Check]) -> Check:
    """What `look` says of the image at `path`, and what its errors mean."""
    try:
        with _silent_libraries():
            return look()
    except BadImage as bad:
        return Check(str(bad), was_read=not isinstance(bad, TooLittleMemory))
    except OSError as error:
        if error.errno in LASTING:
            return Check(f"cannot be read: {error.strerror}", was_read=False)
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}), which is no fault of the image; expected a disk or "
            "network that answers: start the run again when it does, or move the file away"
        ) from None


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Discard what libtiff itself prints about damaged files, past sys.stderr: the reason is reported anyway."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def manifest_path(root: Name, channels: int) -> Path | None:
    """Where the results of a check are remembered; None without a cache folder: then every run checks all files."""
    folder = cache_folder()
    key = os.fsencode(absolute(root)) + f" {VERSION} {channels}".encode()
    return folder / f"manifest-{hashlib.sha256(key).hexdigest()[:16]}.npz" if folder is not None else None


def _load(path: Path | None) -> Manifest:
    nothing = Manifest(FileNames.of([]), np.zeros((0, 2), np.int64), {})
    if path is None:
        return nothing
    try:
        with reading(path), np.load(path) as arrays:
            names = FileNames(arrays["text"], arrays["ends"])
            reasons = json.loads(arrays["reasons"].tobytes())
            manifest = Manifest(names, arrays["stamps"], {int(row): reason for row, reason in reasons.items()})
    except OSError:
        return nothing  # missing or damaged: all files are checked again
    return manifest if manifest.stamps.shape == (len(names), 2) else nothing


def _save(path: Path | None, root: Name, manifest: Manifest) -> None:
    """Remember the results; a cache folder that is not writable does not stop the run."""
    if path is None:
        return
    arrays = {
        "folder": np.frombuffer(os.fsencode(absolute(root)), np.uint8),
        "text": manifest.names.text,
        "ends": manifest.names.ends,
        "stamps": manifest.stamps,
        "reasons": np.frombuffer(json.dumps(manifest.reasons).encode(), np.uint8),
    }
    keep_file(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def write_bad_images(path: Path, bad: Mapping[Name, str]) -> None:
    """Add skipped files to `bad_images.csv`, each once, with the reason; all processes of a run may do so at a time."""
    if not bad:
        return
    rows = [(csv_cell(str(name)), csv_cell(reason)) for name, reason in bad.items()]
    with path.open("a+", newline="", errors="backslashreplace") as file:  # closed, and so unlocked, once it is written
        with suppress(OSError):  # some file systems have no locks; a row may then be there twice
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = set(map(tuple, csv.reader(file)))
        new = [row for row in rows if row not in known]
        csv.writer(file).writerows(new if known else [("file", "reason"), *new])
