"""Arrays that take long to compute, kept in a file that can be deleted at any time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl.machine.kept_files import keep_file, reading

Arrays = Mapping[str, NDArray[Any]]


def kept(path: Path | None, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays in `path`, computed and written if there are none or damaged ones; None does not keep them."""
    if path is None:
        return compute()
    try:
        with reading(path), np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except OSError:
        arrays = compute()
    keep_file(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return arrays
