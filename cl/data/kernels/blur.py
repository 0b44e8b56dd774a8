"""Gaussian blur of the rows that drew it, down and then across; the second pass solarizes and normalises them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cl.data.kernels.colour import finish
from cl.data.kernels.numbers import ColourNumbers

BLOCK = 1024  # pixels of a program
WARPS = 4


def blur(unblurred: Tensor, numbers: ColourNumbers, norm: Tensor, out: Tensor, kernel: int) -> None:
    """Blur `unblurred` float32 [M, C, S, S] into the rows `numbers.blurred` of `out`, as `colour` fills the others."""
    count, channels, height, width = unblurred.shape
    halfway = torch.empty_like(unblurred)
    grid = (count, channels, triton.cdiv(height * width, BLOCK))
    for source, target, is_last in ((unblurred, halfway, False), (halfway, out, True)):
        blur_kernel[grid](
            source, numbers.blurred, numbers.switches, numbers.factors, norm, target,
            area=height * width, side=width, channels=channels, radius=kernel // 2, step=out.stride(3),
            plane=out.stride(1), is_last=is_last, block=BLOCK, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


@triton.jit
def blur_kernel(
    source, rows, switches, factors, norm, out,
    area: tl.constexpr, side: tl.constexpr, channels: tl.constexpr, radius: tl.constexpr, step: tl.constexpr,
    plane: tl.constexpr, is_last: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Program (blurred row, channel, tile): down the columns in the first pass, along the lines in the last.

    `side` is the width of a view.
    """
    slot = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1)
    length: tl.constexpr = side if is_last else area // side
    pixel = tl.program_id(2) * block + tl.arange(0, block)
    inside = pixel < area
    row = tl.load(rows + slot).to(tl.int64)
    sigma = tl.load(factors + row * 5 + 4)
    y = pixel // side
    x = pixel % side
    source += (slot * channels + channel) * area
    total = tl.full([block], 0, tl.float32)
    sum_of_weights = 0.0
    for offset in range(-radius, radius + 1):
        distance = offset / sigma
        weight = tl.exp(-0.5 * distance * distance)
        moved = tl.abs((x if is_last else y) + offset)
        moved = tl.minimum(moved, 2 * (length - 1) - moved)  # reflected at both borders
        neighbour = y * side + moved if is_last else moved * side + x
        total += weight * tl.load(source + neighbour, mask=inside, other=0.0)
        sum_of_weights += weight
    value = tl.div_rn(total, sum_of_weights)
    if is_last:
        target = out + row * channels * area + channel * plane + pixel * step
        solarized = tl.load(switches + row * 8 + 7) != 0
        finish(target, value, solarized, norm, channel, channels, inside)
    else:
        tl.store(out + (slot * channels + channel) * area + pixel, value, mask=inside)
