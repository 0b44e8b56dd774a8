"""Jitter in each row's own order, grey, solarize, normalise: one kernel for all rows of a resolution.

A row that is blurred is left in [0, 1] for `blur`, which solarizes and normalises it. One program a row: with contrast
it reads the row twice, for the mean first, so that no program waits for another.
"""

import triton
import triton.language as tl
from torch import Tensor

from cl.data.executors.device import GREY, SOLARIZE_THRESHOLD
from cl.data.kernels.numbers import ColourNumbers

BLOCK = 1024  # pixels at a time
WARPS = 8  # with four, sm_90 spills registers at 224 pixels
RED = tl.constexpr(GREY[0])
GREEN = tl.constexpr(GREY[1])
BLUE = tl.constexpr(GREY[2])
THRESHOLD = tl.constexpr(SOLARIZE_THRESHOLD)
CONTRAST = tl.constexpr(1)


def colour(pixels: Tensor, numbers: ColourNumbers, norm: Tensor, out: Tensor, unblurred: Tensor) -> None:
    """Fill `out` with the rows of `pixels` that are not blurred, and `unblurred` with the others before their blur.

    Args:
        pixels: uint8 [N, C, S, S].
        numbers: of the N rows.
        norm: float32 [2, C], mean and std.
        out: [N, C, S, S] of any floating-point type, contiguous or channels last.
        unblurred: float32 [M, C, S, S], in [0, 1].
    """
    count, channels, height, width = pixels.shape
    colour_kernel[(count,)](
        pixels, numbers.switches, numbers.factors, norm, out, unblurred,
        area=height * width, channels=channels, step=out.stride(3), plane=out.stride(1), block=BLOCK,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def colour_kernel(
    pixels, switches, factors, norm, out, unblurred,
    area: tl.constexpr, channels: tl.constexpr, step: tl.constexpr, plane: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    pixels += row.to(tl.int64) * channels * area
    switches += row * 8
    factors += row * 5
    contrast_at = tl.load(switches + 4)
    mean = 0.0
    if contrast_at < 4:
        total = tl.full([block], 0, tl.float32)
        for begin in range(0, area, block):
            pixel = begin + tl.arange(0, block)
            red, green, blue = _load(pixels, pixel, area, channels)
            red, green, blue = _jitter(red, green, blue, switches, factors, mean, contrast_at, channels)
            total += tl.where(pixel < area, _grey(red, green, blue, channels), 0.0)
        mean = tl.reduce(total, 0, _add) / area
    is_grey = tl.load(switches + 5) != 0
    slot = tl.load(switches + 6)
    solarized = tl.load(switches + 7) != 0
    for begin in range(0, area, block):
        pixel = begin + tl.arange(0, block)
        inside = pixel < area
        red, green, blue = _load(pixels, pixel, area, channels)
        red, green, blue = _jitter(red, green, blue, switches, factors, mean, 4, channels)
        if channels == 3:  # noqa: SIM102
            if is_grey:
                red = _grey(red, green, blue, channels)
                green = red
                blue = red
        if slot >= 0:
            kept = unblurred + slot.to(tl.int64) * channels * area + pixel
            tl.store(kept, red, mask=inside)
            if channels == 3:
                tl.store(kept + area, green, mask=inside)
                tl.store(kept + 2 * area, blue, mask=inside)
        else:
            target = out + row.to(tl.int64) * channels * area + pixel * step
            finish(target, red, solarized, norm, 0, channels, inside)
            if channels == 3:
                finish(target + plane, green, solarized, norm, 1, channels, inside)
                finish(target + 2 * plane, blue, solarized, norm, 2, channels, inside)


@triton.jit
def finish(target, value, solarized, norm, channel, channels: tl.constexpr, inside):
    """Solarize, normalise and store the values of one channel."""
    if solarized:
        value = tl.where(value >= THRESHOLD, 1 - value, value)
    value = tl.div_rn(value - tl.load(norm + channel), tl.load(norm + channels + channel))
    tl.store(target, value.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _load(pixels, pixel, area, channels: tl.constexpr):
    """The channels of some pixels in [0, 1], rounded as a division by 255 is; of a grey image the one, thrice."""
    inside = pixel < area
    red = tl.div_rn(tl.load(pixels + pixel, mask=inside, other=0).to(tl.float32), 255.0)
    if channels == 3:
        green = tl.div_rn(tl.load(pixels + area + pixel, mask=inside, other=0).to(tl.float32), 255.0)
        blue = tl.div_rn(tl.load(pixels + 2 * area + pixel, mask=inside, other=0).to(tl.float32), 255.0)
    else:
        green = red
        blue = red
    return red, green, blue


@triton.jit
def _jitter(red, green, blue, switches, factors, mean, end, channels: tl.constexpr):
    """The operations at the positions before `end`; `mean` is the grey mean of the row before contrast."""
    for position in tl.static_range(4):
        operation = tl.load(switches + position)
        factor = tl.load(factors + tl.maximum(operation, 0))
        if (operation >= 0) & (position < end):
            if operation == 0:
                red = _clamped(red * factor)
                green = _clamped(green * factor)
                blue = _clamped(blue * factor)
            if operation == CONTRAST:
                other = mean * (1 - factor)
                red = _clamped(red * factor + other)
                green = _clamped(green * factor + other)
                blue = _clamped(blue * factor + other)
            if channels == 3:
                if operation == 2:
                    other = _grey(red, green, blue, channels) * (1 - factor)
                    red = _clamped(red * factor + other)
                    green = _clamped(green * factor + other)
                    blue = _clamped(blue * factor + other)
                if operation == 3:
                    red, green, blue = _rotated(red, green, blue, factor)
    return red, green, blue


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _clamped(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def _grey(red, green, blue, channels: tl.constexpr):
    if channels == 1:
        return red
    else:
        return red * RED + green * GREEN + blue * BLUE


@triton.jit
def _rotated(red, green, blue, shift):
    """The hue rotated by `shift` turns, as in `executors.device._hue`."""
    smallest = tl.minimum(tl.minimum(red, green), blue)
    largest = tl.maximum(tl.maximum(red, green), blue)
    span = largest - smallest
    per_span = tl.div_rn(1.0, tl.where(span == 0, 1.0, span))
    of_green = tl.where(largest == green, (blue - red) * per_span + 2, (red - green) * per_span + 4)
    hue = tl.where(largest == red, (green - blue) * per_span, of_green) + 6 * shift
    return (
        smallest + span * _trapezoid(hue),
        smallest + span * _trapezoid(hue + 4),
        smallest + span * _trapezoid(hue + 2),
    )


@triton.jit
def _trapezoid(hue):
    rotated = hue - 6 * tl.floor(tl.div_rn(hue, 6.0))
    return _clamped(tl.abs(rotated - 3) - 1)
