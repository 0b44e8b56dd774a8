"""Which files of a folder are usable images: looked at once, remembered until a file changes."""

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

ALONE = 500  # files that one process checks faster than several have started


class FileRecord(NamedTuple):
    size: int
    changed: int  # mtime in ns
    reason: str  # why it is no usable image, "" if it is one


def bad_files(root: Path, files: Sequence[str]) -> dict[str, str]:
    """The files that do not decode, with the reason. Files that the manifest knows unchanged are not read again."""
    known = _load(root)
    stamps = {name: stamp(root / name) for name in files}
    new = [name for name in files if name not in known or known[name][:2] != stamps[name]]
    if new:
        quiet = not sys.stderr.isatty()
        reasons = tqdm(_reasons(root, new), f"checking {root}", len(new), unit="image", disable=quiet, leave=False)
        known = {name: seen for name, seen in known.items() if name in stamps}
        known |= {name: FileRecord(*stamps[name], reason) for name, reason in zip(new, reasons, strict=True)}
        _save(root, known)
    return {name: known[name].reason for name in files if known[name].reason}


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change, by which a file is known again; -1 if there is none."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _reasons(root: Path, names: Sequence[str]) -> Iterator[str]:
    paths = [root / name for name in names]
    if len(paths) <= ALONE:
        yield from map(reason_against, paths)
        return
    with ProcessPoolExecutor() as pool:
        yield from pool.map(reason_against, paths, chunksize=64)


def reason_against(path: Path) -> str:
    """Why a file is no usable image, "" if it is one."""
    try:
        read_image(path)
    except BadImage as bad:
        return str(bad)
    return ""


def cache_folder() -> Path:
    """In the user's cache, for data folders are often read-only and never ours to write to."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl"


def manifest_path(root: Path) -> Path:
    return cache_folder() / f"manifest-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"


def _load(root: Path) -> dict[str, FileRecord]:
    try:
        files = json.loads(manifest_path(root).read_text())["files"]
        return {name: FileRecord(*seen) for name, seen in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none yet, or none that can be used: all files are looked at again


def _save(root: Path, known: Mapping[str, FileRecord]) -> None:
    """Written beside its place and moved there; a cache that cannot be written is no reason to stop."""
    place = manifest_path(root)
    beside = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"folder": str(root.resolve()), "files": known}))
        os.replace(beside, place)
    except OSError:
        beside.unlink(missing_ok=True)


def write_bad(path: Path, bad: Mapping[Path, str]) -> None:
    """`bad_images.csv`: each file that was left out once, with its reason; no file if there are none."""
    if not bad:
        return
    with path.open("w", newline="", errors="backslashreplace") as file:
        csv.writer(file).writerows([("file", "reason"), *((str(name), reason) for name, reason in bad.items())])
