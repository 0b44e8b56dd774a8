"""Files that the program can make again: they appear complete or not at all, and nothing depends on them."""

import os
import shutil
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


def keep_folder(folder: Path, series: str, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary folder, rename it to `folder`, and remove others of the series beside it.

    OSError if that is impossible and no other process has done it. A process that has mapped files of a former folder
    keeps them.
    """
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # another process was faster
            raise
    for former in folder.parent.glob(f"{series}-*"):
        if former != folder:
            shutil.rmtree(former, ignore_errors=True)
