"""Cut a box out of an image, resize it with antialiasing and flip it: one kernel for all rows of a resolution."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cl.config.views import Size, sides
from cl.data.kernels.numbers import CropNumbers
from cl.data.kernels.weights import Tables

BLOCK = 512  # output pixels of a program
WARPS = 4


def cut(images: Tensor, crops: CropNumbers, tables: Tables, size: Size, channels: int) -> Tensor:
    """Views uint8 [N, C, *size] of `images`, uint8 pixels [C, H, W] of one image after another.

    Bit for bit those of torch's uint8 `interpolate` on the CPU: all sums are of integers below 2^30.
    """
    count = len(crops.offset)
    height, width = sides(size)
    out = torch.empty(count, channels, height, width, dtype=torch.uint8, device=images.device)
    grid = (count, triton.cdiv(height * width, BLOCK))
    cut_kernel[grid](
        images, *crops, *tables, out, area=height * width, side=width, channels=channels, block=BLOCK, num_warps=WARPS
    )
    return out


@triton.jit
def cut_kernel(
    images, offset, crops, heads, first, weights, out,
    area: tl.constexpr, side: tl.constexpr, channels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Program (row, tile); `side` is the width of a view."""
    row = tl.program_id(0)
    pixel = tl.program_id(1) * block + tl.arange(0, block)
    inside = pixel < area
    crops += row * 7
    width = tl.load(crops)
    plane = tl.load(crops + 1)
    down = heads + 5 * tl.load(crops + 2)
    across = heads + 5 * tl.load(crops + 3)
    y = pixel // side + tl.load(crops + 4)
    x = pixel % side
    x = tl.where(tl.load(crops + 6) != 0, side - 1 - x, x) + tl.load(crops + 5)
    taps_down = tl.load(down + 2)
    taps_across = tl.load(across + 2)
    bits_down = tl.load(down + 3)
    bits_across = tl.load(across + 3)
    last_line = tl.load(down + 4) - 1
    last_column = tl.load(across + 4) - 1
    top = tl.load(first + tl.load(down) + y, mask=inside, other=0)
    left = tl.load(first + tl.load(across) + x, mask=inside, other=0)
    weights_down = weights + tl.load(down + 1) + y * taps_down
    weights_across = weights + tl.load(across + 1) + x * taps_across
    source = images + tl.load(offset + row)
    for channel in tl.static_range(channels):
        total = tl.full([block], 1, tl.int32) << (bits_down - 1)
        for i in range(taps_down):
            line = source + channel * plane + tl.minimum(top + i, last_line) * width
            blended = tl.full([block], 1, tl.int32) << (bits_across - 1)
            for j in range(taps_across):
                value = tl.load(line + tl.minimum(left + j, last_column), mask=inside, other=0).to(tl.int32)
                blended += value * tl.load(weights_across + j, mask=inside, other=0).to(tl.int32)
            blended = tl.minimum(tl.maximum(blended >> bits_across, 0), 255)
            total += blended * tl.load(weights_down + i, mask=inside, other=0).to(tl.int32)
        view = tl.minimum(tl.maximum(total >> bits_down, 0), 255).to(tl.uint8)
        tl.store(out + (row.to(tl.int64) * channels + channel) * area + pixel, view, mask=inside)
