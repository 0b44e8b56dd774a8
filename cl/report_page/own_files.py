"""Files of a run folder, and no others: a link could lead to any file of the machine."""

import os
import stat
from pathlib import Path

MAX_BYTES = 2**26  # a picture or a table of a run is smaller


def read_own(folder: Path, name: str) -> bytes:
    """The content of the file `name` of `folder`; OSError if it is missing, a link, a device or too large."""
    path = folder / name
    if path.is_symlink():
        raise OSError(f"{path} is a link, which is not followed")
    # Without O_NONBLOCK a named pipe would be waited for; O_NOFOLLOW: it may have become a link since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise OSError(f"{path} is no file of less than {MAX_BYTES} bytes")
        return file.read()


def own_text(folder: Path, name: str) -> str:
    """The text of the file `name` of `folder`; UnicodeDecodeError, a ValueError, if it is none."""
    return read_own(folder, name).decode()


def own_text_if_any(folder: Path, name: str) -> str:
    """The text of the file `name` of `folder`, "" if it cannot be read."""
    try:
        return own_text(folder, name)
    except (OSError, ValueError):
        return ""
