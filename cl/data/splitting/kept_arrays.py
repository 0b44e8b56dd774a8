"""Arrays that take long to compute, kept in a file that can be deleted at any time."""

import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def kept(path: Path | None, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays in `path`, computed and written if there are none or damaged ones; None does not keep them."""
    if path is None:
        return compute()
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        arrays = compute()
    _write(path, arrays)
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    """Write a temporary file and rename it; a folder that is not writable does not stop the run."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
