"""Which files of a folder are usable images: checked once, and again only when a file changes."""

import csv
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from cl.data.decoding.decode import LASTING, MAX_BYTES, TooLittleMemory, patiently, read_image
from cl.data.decoding.modes import BadImage
from cl.errors import Stopped, UserError, csv_cell
from cl.machine.children import MEMORY, end_with_parent
from cl.machine.cores import usable_cores
from cl.machine.home import cache_folder

VERSION = 2  # of what counts as a usable image
SERIAL_LIMIT = 500  # up to this many files, one process is faster than starting a pool


class FileRecord(NamedTuple):
    size: int
    mtime: int  # ns
    reason: str  # why it is not a usable image, "" if it is one


class Check(NamedTuple):
    reason: str  # why the file is not a usable image, "" if it is one
    was_read: bool  # only what was read is remembered: a missing file may come back, rights may change


def bad_files(root: Path, files: Sequence[str], channels: int) -> dict[str, str]:
    """The files that are not usable images, and the reason. Files unchanged since the last check are not read again."""
    path = manifest_path(root, channels)
    known = _load(path)
    stamps = {name: stamp(root / name) for name in files}
    records = {name: known[name] for name in files if name in known and known[name][:2] == stamps[name]}
    unread = {}
    names = [name for name in files if name not in records]
    try:
        for name, check in zip(names, _checks(root, names, channels), strict=True):
            if check.was_read:
                records[name] = FileRecord(*stamps[name], check.reason)
            else:
                unread[name] = check.reason
    finally:
        if names:
            _save(path, root, records)
    reasons = {name: record.reason for name, record in records.items() if record.reason} | unread
    return {name: reasons[name] for name in files if name in reasons}


def stamp(path: Path) -> tuple[int, int]:
    """Size and modification time, which identify a file's content; -1 if it cannot be looked up."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _checks(root: Path, names: Sequence[str], channels: int) -> Iterator[Check]:
    """The check of each file in turn, with a progress bar."""
    hidden = not sys.stderr.isatty()
    with tqdm(desc=f"checking {root}", total=len(names), leave=False, unit="image", disable=hidden) as bar:
        for check in _map_checks([root / name for name in names], channels):
            yield check
            bar.update()


def _map_checks(paths: Sequence[Path], channels: int) -> Iterator[Check]:
    check = partial(check_file, channels=channels)
    if len(paths) <= SERIAL_LIMIT:
        yield from map(check, paths)
        return
    with ProcessPoolExecutor(usable_cores(), initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(check, paths, chunksize=64)
        except BrokenProcessPool:
            raise Stopped(f"a process that checked the images of {paths[0].parent} was killed; {MEMORY}", 1) from None


def check_file(path: Path, channels: int) -> Check:
    """Whether a file is a usable image; UserError if the disk or network does not answer."""
    try:
        status = patiently(path.stat)
        if not stat.S_ISREG(status.st_mode):
            return Check("not a regular file", was_read=False)  # reading a pipe would wait for ever
        if status.st_size > MAX_BYTES:
            return Check(f"a file of {status.st_size} bytes, more than {MAX_BYTES}", was_read=True)
        with _silent_libraries():
            read_image(path, channels)
    except BadImage as bad:
        return Check(str(bad), was_read=not isinstance(bad, TooLittleMemory))
    except OSError as error:
        if error.errno in LASTING:
            return Check(f"cannot be read: {error.strerror}", was_read=False)
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}), which is no fault of the image; expected a disk or "
            "network that answers: start the run again when it does, or move the file away"
        ) from None
    return Check("", was_read=True)


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


def manifest_path(root: Path, channels: int) -> Path | None:
    """Where the results of a check are remembered; None without a cache folder: then every run checks all files."""
    folder = cache_folder()
    key = os.fsencode(root.resolve()) + f" {VERSION} {channels}".encode()
    return folder / f"manifest-{hashlib.sha256(key).hexdigest()[:16]}.json" if folder is not None else None


def _load(path: Path | None) -> dict[str, FileRecord]:
    if path is None:
        return {}
    try:
        files = json.loads(path.read_text())["files"]
        return {name: FileRecord(*record) for name, record in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # missing or damaged: all files are checked again


def _save(path: Path | None, root: Path, records: Mapping[str, FileRecord]) -> None:
    """Write a temporary file and rename it; a cache folder that is not writable does not stop the run."""
    if path is None:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"folder": str(root.resolve()), "files": records}))
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def write_bad_images(path: Path, bad: Mapping[Path, str]) -> None:
    """Write `bad_images.csv`: each skipped file once, with the reason; nothing if no file was skipped."""
    if not bad:
        return
    with path.open("w", newline="", errors="backslashreplace") as file:
        rows = [(csv_cell(str(name)), csv_cell(reason)) for name, reason in bad.items()]
        csv.writer(file).writerows([("file", "reason"), *rows])
