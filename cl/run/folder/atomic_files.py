"""Files that are written completely or not at all."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cl.errors import NOT_WRITTEN, Stopped, warn

PAUSE = 5  # seconds before the second attempt: another job may be moving its files off the disk
Write = Callable[[BinaryIO], object]
BeforeReplace = Callable[[Path], None]


def _accept(temporary: Path) -> None:
    """The default `before_replace`: accept the file as it is."""


def write_atomically(path: Path, write: Write, before_replace: BeforeReplace = _accept) -> None:
    """Write a temporary file, flush it to the disk and rename it to `path`; `before_replace` may check it and raise."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        before_replace(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_or_stop(path: Path, write: Write, before_replace: BeforeReplace = _accept) -> None:
    """`write_atomically` for files that a run must not lose: try again after a pause, then stop the run."""
    try:
        return write_atomically(path, write, before_replace)
    except OSError as error:
        warn(f"{path}: {_reason(error)}; trying again in {PAUSE} seconds")
    time.sleep(PAUSE)
    try:
        write_atomically(path, write, before_replace)
    except OSError as error:
        raise Stopped(
            f"{path} cannot be written ({_reason(error)}); earlier files are intact. Free disk space and resume with "
            f"--resume_training_from {path.parent}",
            NOT_WRITTEN,
        ) from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _sync_directory(folder: Path) -> None:
    """Flush the rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
