"""The filters of antialiased resizes, as in Pillow and torch. A distance is in output pixels, or in input pixels if
they are larger."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

X = TypeVar("X", Tensor, NDArray[np.float64])


class Filter(NamedTuple):
    """Weights of pixels by their distance from the centre of an output pixel."""

    support: float  # weights are zero from here on
    weights: Callable[[X], X]


def _triangle(distance: X) -> X:
    x = abs(distance)
    return (1 - x) * (x < 1)


def _cubic(distance: X) -> X:
    """Keys' cubic convolution with a = -1/2."""
    x = abs(distance)
    near = ((1.5 * x - 2.5) * x * x + 1) * (x < 1)
    return near + (((-0.5 * x + 2.5) * x - 4) * x + 2) * ((x >= 1) & (x < 2))


FILTERS: Mapping[str, Filter] = {"bilinear": Filter(1.0, _triangle), "bicubic": Filter(2.0, _cubic)}
