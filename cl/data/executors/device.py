"""Everything from colour on, for a whole batch of views on the training device, without any randomness.

Each row has its own parameters, so an operation gathers the rows that drew it, changes them and writes them back.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cl.batch import Batch
from cl.config.data import COLOURS
from cl.config.views import sides
from cl.data.views.rows import Colours, Rows
from cl.data.views.spec import Norm

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights for red, green and blue
SOLARIZE_THRESHOLD = 128 / 255  # pixels from here on are inverted
CHUNK = 2**21  # values per step on a CPU: beyond its caches everything takes 1.5 times as long


Pixels = Callable[[slice], Tensor]  # rows of cropped views: [n, C, S, S] in 0 to 255; above 3 channels, in 0 to 1


def make_batch(
    index: Tensor, target: Tensor, device: torch.device, norm: Norm, views: Sequence[tuple[Rows, Pixels]]
) -> Batch:
    """A Batch from the cropped views of each resolution."""
    augmented = (augment(rows, pixels, device, norm) for rows, pixels in views)
    return Batch(
        index=index.to(device, non_blocking=True),
        views=tuple(rearrange(x, "(v b) c h w -> v b c h w", b=len(index)) for x in augmented),
        target=target.to(device, non_blocking=True),
    )


def augment(rows: Rows, pixels: Pixels, device: torch.device, norm: Norm) -> Tensor:
    """The network's input from all rows: float32 [N, C, S, S] on `device`."""
    count = len(rows.crops.flip)
    step = max(1, CHUNK // (3 * math.prod(sides(rows.size)))) if device.type == "cpu" else count
    chunks = []
    for begin in range(0, count, step):
        chunk = slice(begin, begin + step)
        x = pixels(chunk).to(device, non_blocking=True)
        x = x.clone() if x.shape[1] > COLOURS else x.to(torch.float32).div_(255)  # copied as bytes, not as floats
        if rows.colours is not None:
            apply_colours_(x, rows.colours.select(chunk), rows.kernel)
        chunks.append(normalize_(x, norm))
    return torch.cat(chunks) if len(chunks) > 1 else chunks[0]


def normalize_(x: Tensor, norm: Norm) -> Tensor:
    """(x - mean) / std per channel of [N, C, S, S], in place."""
    mean, std = _norm_on(x.device, norm)
    return x.sub_(mean).div_(std)


@cache
def _norm_on(device: torch.device, norm: Norm) -> tuple[Tensor, Tensor]:
    """Mean and std [C, 1, 1], copied to the device once: such a copy waits for all that the device has to do."""
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in norm)
    return mean, std


def apply_colours_(x: Tensor, colours: Colours, kernel: int) -> Tensor:
    """Jitter in each row's own order, grey, blur, solarize, in place: float32 [N, C, S, S] in [0, 1].

    Does what torchvision's v2.functional does to one float image at a time (`executors.torchvision`, the slow twin).
    """
    in_colour = x.shape[1] == COLOURS  # other images have neither saturation nor hue
    for position in range(4):
        for operation in range(4 if in_colour else 2):
            rows = np.flatnonzero(colours.order[:, position] == operation)
            _apply_to_rows(x, rows, _JITTER[operation], colours.factors[rows, operation])
    if in_colour:
        _apply_to_rows(x, np.flatnonzero(colours.grey), lambda y, _: _grey(y).expand_as(y))
    rows = np.flatnonzero(colours.sigma)
    _apply_to_rows(x, rows, lambda y, sigma: _blurred(y, sigma, kernel), colours.sigma[rows])
    _apply_to_rows(x, np.flatnonzero(colours.solarize), lambda y, _: torch.where(y >= SOLARIZE_THRESHOLD, 1 - y, y))
    return x


def _apply_to_rows(
    x: Tensor,
    rows: NDArray[np.intp],
    operation: Callable[[Tensor, Tensor], Tensor],
    parameters: NDArray[np.float64] | None = None,
) -> None:
    """x[rows] = operation(x[rows], parameters [n, 1, 1, 1]), without waiting for the device."""
    if len(rows) == 0:
        return
    values = rows if parameters is None else parameters  # an operation without parameters ignores them
    index = to_device(rows, x.device)
    factors = to_device(values.astype(np.float32), x.device)
    x.index_copy_(0, index, operation(x.index_select(0, index), factors.view(-1, 1, 1, 1)))


def to_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy a NumPy array to `device` without waiting for it."""
    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _grey(x: Tensor) -> Tensor:
    """[n, C, S, S] -> [n, 1, S, S]"""
    if x.shape[1] == 1:
        return x
    red, green, blue = GREY
    return (x[:, 0] * red).add_(x[:, 1], alpha=green).add_(x[:, 2], alpha=blue).unsqueeze(1)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image; of more than three channels, each with its own mean."""
    means = x.mean(dim=(2, 3), keepdim=True) if x.shape[1] > COLOURS else _grey(x).mean(dim=(1, 2, 3), keepdim=True)
    return _blended(x, means, factor)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blended(x, _grey(x), factor)


def _blended(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    other = other * (1 - factor)
    return x.mul_(factor).add_(other).clamp_(0, 1)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by `shift` turns of the colour circle and keep HSV's value and saturation.

    With the hue h in sixths of the circle, each channel is m + c w: m is the pixel's smallest channel, c its range, and
    w a trapezoid of h (red), h + 4 (green), h + 2 (blue).
    """
    red, green, blue = x.unbind(1)
    smallest = x.amin(dim=1)
    largest = x.amax(dim=1)
    span = largest - smallest
    per_span = torch.where(span == 0, 1, span).reciprocal_()
    hue = (red - green).mul_(per_span).add_(4)  # where blue is the largest
    hue = torch.where(largest == green, (blue - red).mul_(per_span).add_(2), hue)
    hue = torch.where(largest == red, (green - blue).mul_(per_span), hue).add_(6 * shift.view(-1, 1, 1))
    for channel, offset in enumerate((0, 4, 2)):
        rotated = hue + offset
        rotated.sub_((rotated / 6).floor_(), alpha=6)
        weight = rotated.sub_(3).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(smallest, span, weight, out=x[:, channel])
    return x


_JITTER = (_brightness, _contrast, _saturation, _hue)


def _blurred(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with reflected borders, each image with its own `sigma` [n, 1, 1, 1]."""
    n, channels, height, width = x.shape
    radius = kernel // 2
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.exp(-0.5 * (offsets / sigma.view(n, 1)).square())
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)  # [n C, kernel]
    x = F.pad(x, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(x, weights[:, None, :, None], groups=n * channels)
    return F.conv2d(x, weights[:, None, None, :], groups=n * channels).view(n, channels, height, width)
