"""The resize of torch's uint8 images as tables: which pixels make an output pixel, and with which integer weights."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cl.data.views.filters import FILTERS

MAX_BITS = 22  # fractional bits of a weight; 255 times the sum of the weights stays below 2^30
LARGEST = 2**15  # weights are 16-bit integers


class Table(NamedTuple):
    """How R pixels are made of L pixels along one axis."""

    bits: int  # fractional bits of the weights
    first: NDArray[np.int32]  # [R] the first pixel that each output pixel is made of
    weights: NDArray[np.int16]  # [R, taps], 0 beyond the last one


class Tables(NamedTuple):
    """Tables of T pairs of lengths in flat tensors, as `cut` reads them."""

    heads: Tensor  # int32 [T, 5] where its `first` begins, where its `weights` begin, taps, bits, length
    first: Tensor  # int32
    weights: Tensor  # int16


def table(length: int, resized: int, interpolation: str = "bilinear") -> Table:
    """The weights of a resize from `length` to `resized` pixels (torch's `interpolate` with antialiasing).

    The filter is as wide as an output pixel where that is larger than an input pixel, as Pillow's and torch's. Torch
    rounds the weights to 16-bit integers, with as many fractional bits as the largest weight leaves.
    """
    scale = length / resized
    resize = FILTERS[interpolation]
    width = max(scale, 1.0)
    support = resize.support * width
    centre = scale * (np.arange(resized) + 0.5)
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    last = np.minimum(np.trunc(centre + support + 0.5), length)
    pixel = first[:, None] + np.arange(int((last - first).max()))  # [R, taps]
    weights = resize.weights((pixel - centre[:, None] + 0.5) / width) * (pixel < last[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    bits = next(n for n in range(MAX_BITS + 1) if n == MAX_BITS or 0.5 + weights.max() * 2 ** (n + 1) >= LARGEST)
    integers = weights * 2**bits + np.copysign(0.5, weights)
    return Table(bits, first.astype(np.int32), integers.astype(np.int16))


def tables(pairs: Sequence[tuple[int, int]], interpolation: str, device: torch.device) -> Tables:
    """The tables of all (length, resized) in `pairs` on `device`."""
    heads = []
    begin = 0
    first_weight = 0
    found = [table(*pair, interpolation) for pair in pairs]
    for (length, resized), (bits, _, weights) in zip(pairs, found, strict=True):
        heads.append((begin, first_weight, weights.shape[1], bits, length))
        begin += resized
        first_weight += weights.size
    return Tables(
        heads=torch.tensor(heads, dtype=torch.int32, device=device),
        first=torch.from_numpy(np.concatenate([one.first for one in found])).to(device),
        weights=torch.from_numpy(np.concatenate([one.weights.ravel() for one in found])).to(device),
    )
