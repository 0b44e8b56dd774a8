"""Files that appear in their place when all of them is written, or not at all."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def whole(place: Path, ready: Callable[[Path], None] = lambda beside: None) -> Iterator[BinaryIO]:
    """Write beside `place`, flush to the disk, and rename; `ready` may look at the file before that and refuse it."""
    beside = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        ready(beside)
        os.replace(beside, place)
        _flush_names(place.parent)
    finally:
        beside.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """The rename, too, has to reach the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
