"""Which files of a folder are usable images: checked once, and again only when a file changes."""

import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from cl.data.decode import BadImage, read_image

SERIAL_LIMIT = 500  # up to this many files, one process is faster than starting a pool


class FileRecord(NamedTuple):
    size: int
    mtime: int  # ns
    reason: str  # why it is not a usable image, "" if it is one


def bad_files(root: Path, files: Sequence[str]) -> dict[str, str]:
    """The files that do not decode, and the reason. Files unchanged since the last check are not read again."""
    records = _load(root)
    stamps = {name: stamp(root / name) for name in files}
    changed = [name for name in files if name not in records or records[name][:2] != stamps[name]]
    if changed:
        reasons = tqdm(
            _reasons(root, changed),
            desc=f"checking {root}",
            total=len(changed),
            leave=False,
            unit="image",
            disable=not sys.stderr.isatty(),
        )
        records = {name: record for name, record in records.items() if name in stamps}
        for name, reason in zip(changed, reasons, strict=True):
            size, mtime = stamps[name]
            records[name] = FileRecord(size, mtime, reason)
        _save(root, records)
    return {name: records[name].reason for name in files if records[name].reason}


def stamp(path: Path) -> tuple[int, int]:
    """Size and modification time, which identify a file's content; -1 if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _reasons(root: Path, names: Sequence[str]) -> Iterator[str]:
    paths = [root / name for name in names]
    if len(paths) <= SERIAL_LIMIT:
        yield from map(why_unusable, paths)
        return
    with ProcessPoolExecutor() as pool:
        yield from pool.map(why_unusable, paths, chunksize=64)


def why_unusable(path: Path) -> str:
    """The reason why a file is not a usable image, "" if it is one."""
    try:
        read_image(path)
    except BadImage as bad:
        return str(bad)
    return ""


def cache_folder() -> Path:
    """In the user's cache: data folders are often read-only, and the program never writes to them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl"


def manifest_path(root: Path) -> Path:
    return cache_folder() / f"manifest-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"


def _load(root: Path) -> dict[str, FileRecord]:
    try:
        files = json.loads(manifest_path(root).read_text())["files"]
        return {name: FileRecord(*record) for name, record in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # missing or damaged: all files are checked again


def _save(root: Path, records: Mapping[str, FileRecord]) -> None:
    """Write a temporary file and rename it; a cache folder that is not writable does not stop the run."""
    path = manifest_path(root)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"folder": str(root.resolve()), "files": records}))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


def write_bad_images(path: Path, bad: Mapping[Path, str]) -> None:
    """Write `bad_images.csv`: each skipped file once, with the reason; nothing if no file was skipped."""
    if not bad:
        return
    with path.open("w", newline="", errors="backslashreplace") as file:
        csv.writer(file).writerows([("file", "reason"), *((str(name), reason) for name, reason in bad.items())])
