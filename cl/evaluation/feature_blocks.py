"""Features of all images of a data set: each block of images is computed once, by all processes, and kept in a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cl.data.views.draws import Ints
from cl.distributed import on_any_rank
from cl.machine.kept_files import keep_file, reading

BLOCK = 8192  # images: what a killed run computes again, at most
Features = NDArray[np.float32]


def remembered(folder: Path | None, images: int, compute: Callable[[Ints], Tensor]) -> list[Features]:
    """Blocks [N_b, F] of features in image order, mapped from the files of `folder`; None keeps them in memory.

    `compute` returns the features [N_b, F] of the images that it is given, on every process: all call it together.
    Processes on other machines may see other files, so a block is computed if any process lacks it.
    """
    blocks = []
    for begin in range(0, images, BLOCK):
        index = np.arange(begin, min(begin + BLOCK, images))
        path = folder / f"{begin // BLOCK:06}.npy" if folder is not None else None
        block = _load(path, len(index))
        if on_any_rank(block is None):
            features = compute(index).float().cpu().numpy()
            block = features if path is None else _keep(path, features)
        assert block is not None
        blocks.append(block)
    return blocks


def _load(path: Path | None, images: int) -> Features | None:
    """The block in a file, unless that is missing or damaged."""
    if path is None:
        return None
    try:
        with reading(path):
            block: Features = np.load(path, mmap_mode="r")
    except OSError:
        return None
    return block if block.ndim == 2 and len(block) == images and block.dtype == np.float32 else None


def _keep(path: Path, features: Features) -> Features:
    """Write a block and map it; all its writers write the same. Where nothing can be written, it stays in memory."""
    if not keep_file(path, lambda file: np.save(file, features)):
        return features
    block = _load(path, len(features))
    return features if block is None else block
