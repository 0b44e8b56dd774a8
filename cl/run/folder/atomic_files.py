"""Files that appear in their place when all of them is written, or not at all."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cl.errors import NOT_WRITTEN, Stopped

PAUSE = 5  # seconds before the second try: another job may be moving its files off the disk
Fill = Callable[[BinaryIO], object]
Ready = Callable[[Path], None]


def write_atomically(place: Path, fill: Fill, ready: Ready = lambda beside: None) -> None:
    """`fill` a file beside `place`, flush it to the disk, and rename it; `ready` sees it before that and may refuse."""
    beside = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        with beside.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        ready(beside)
        os.replace(beside, place)
        _flush_names(place.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_or_stop(place: Path, fill: Fill, ready: Ready = lambda beside: None) -> None:
    """`write_atomically` for what a run must not lose: one more try after a pause, then the run is stopped."""
    try:
        return write_atomically(place, fill, ready)
    except OSError as error:
        print(f"warning: {place}: {_reason(error)}; one more try in {PAUSE} seconds", file=sys.stderr, flush=True)
    time.sleep(PAUSE)
    try:
        write_atomically(place, fill, ready)
    except OSError as error:
        raise Stopped(
            f"{place} cannot be written ({_reason(error)}); what was written before is whole. Make room and go on with "
            f"--resume_training_from {place.parent}",
            NOT_WRITTEN,
        ) from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _flush_names(folder: Path) -> None:
    """The rename, too, has to reach the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def as_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
