"""The rows of a batch as the numbers that the kernels read."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cl.config.views import sides
from cl.data.views.draws import Ints
from cl.data.views.rows import Colours, Crops, RandomViews, Rows, ViewPlanner

NO_CONTRAST = 4  # a position behind the last one
Pairs = tuple[tuple[int, int], ...]


class CropNumbers(NamedTuple):
    """Geometry of N rows, as `cut` reads it."""

    offset: Tensor  # int64 [N] where in the images each row's box begins
    table: Tensor  # int32 [N, 7] width of the image, pixels of a channel, tables down and across, corner, flip


class ColourNumbers(NamedTuple):
    """Colour parameters of N rows, as `colour` and `blur` read them."""

    switches: Tensor  # int32 [N, 8] operation at each position (or -1), position of contrast, grey, blur slot, solarize
    factors: Tensor  # float32 [N, 5] of brightness, contrast, saturation, hue; sigma
    blurred: Tensor  # int32 [M] the rows that are blurred, in the order of their slots


def colour_numbers(rows: Rows) -> list[NDArray[Any]]:
    """The arrays of `ColourNumbers`."""
    colours = rows.colours or _unchanged(len(rows.crops.flip))
    is_contrast = colours.order == 1
    blurred = np.flatnonzero(colours.sigma)
    slot = np.full(len(colours.sigma), -1)
    slot[blurred] = np.arange(len(blurred))
    contrast_at = np.where(is_contrast.any(axis=1), is_contrast.argmax(axis=1), NO_CONTRAST)
    switches = np.column_stack([colours.order, contrast_at, colours.grey, slot, colours.solarize])
    factors = np.column_stack([colours.factors, colours.sigma])
    return [switches.astype(np.int32), factors.astype(np.float32), blurred.astype(np.int32)]


def _unchanged(count: int) -> Colours:
    off = np.zeros(count, np.bool_)
    return Colours(np.full((count, 4), -1), np.zeros((count, 4)), off, np.zeros(count), off)


def crop_numbers(crops: Crops, begins: Ints, sizes: Ints, pairs: Pairs) -> list[NDArray[Any]]:
    """The arrays of `CropNumbers`.

    `begins` [B] and `sizes` [B, 2] say where the images are and how large; `pairs` are those of the tables, sorted.
    """
    views = len(crops.flip) // len(begins)
    height, width = np.tile(sizes, (views, 1)).T
    top, left = crops.box[:, :2].T
    keys = np.array([_key(*pair) for pair in pairs])
    numbers = [np.searchsorted(keys, _key(crops.box[:, 2 + axis], crops.resized[:, axis])) for axis in (0, 1)]
    offset = np.tile(begins, views) + top * width + left
    table = np.column_stack([width, height * width, *numbers, crops.corner, crops.flip])
    return [offset.astype(np.int64), table.astype(np.int32)]


def pairs_of(planner: ViewPlanner, sizes: Ints) -> Pairs:
    """All (length, resized) that views of images with heights and widths `sizes` [N, 2] can have, sorted."""
    if isinstance(planner, RandomViews):
        resized = sorted({side for one in planner.resolutions for side in sides(one.size)})
        return tuple((length, size) for length in range(1, int(sizes.max()) + 1) for size in resized)
    distinct = np.unique(sizes, axis=0)
    (rows,) = planner.rows(0, np.arange(len(distinct)), distinct)
    lengths = rows.crops.box[:, 2:].ravel()
    pairs = np.unique(np.column_stack([lengths, rows.crops.resized.ravel()]), axis=0)
    return tuple((length, size) for length, size in pairs.tolist())


def _key(length: Any, resized: Any) -> Any:
    """Sorts like the pair."""
    return (length << 32) + resized
