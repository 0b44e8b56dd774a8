"""Files that the program can make again: they appear complete or not at all, and nothing depends on them."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def keep_file(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Write a temporary file and rename it to `path`; False if that is impossible, which does not stop a run."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return False
    return True
