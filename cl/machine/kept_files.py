"""Files that the program can make again: they appear complete or not at all, and nothing depends on them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise OSError, as for a missing file, whatever a reader makes of a damaged one: zipfile and NumPy have many."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def kept_folder(
    folder: Path, series: str, read: Callable[[Path], T], make: Callable[[], T], write: Callable[[T, Path], object]
) -> T:
    """What `read` makes of a folder, which is made and written if it is missing or damaged.

    Where nothing can be written it is as it was made.
    """
    with suppress(OSError):
        return read(folder)
    shutil.rmtree(folder, ignore_errors=True)
    made = make()
    try:
        keep_folder(folder, series, lambda temporary: write(made, temporary))
        return read(folder)
    except OSError:
        return made


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
        sync_folder(temporary)
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # another process was faster
            raise
    for former in folder.parent.glob(f"{series}-*"):
        if former != folder:
            shutil.rmtree(former, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Wait until the files of a folder, and their names, are on the disk: a loss of power could leave them empty."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
