"""The device's share of the views of one resolution: colour, blur and normalisation in three launches."""

import torch
from torch import Tensor

from cl.data.kernels.blur import blur
from cl.data.kernels.colour import colour
from cl.data.kernels.numbers import ColourNumbers


def augment(pixels: Tensor, numbers: ColourNumbers, norm: Tensor, kernel: int, dtype: torch.dtype) -> Tensor:
    """The network's input [N, C, S, S] of type `dtype`, channels last, from cropped views uint8 [N, C, S, S].

    `norm` is mean and std float32 [2, C], `kernel` the size of the blur. The slow twin is `executors.device.augment`:
    they agree to 1e-5 before normalisation, but pixels so close to solarize's threshold may fall to its other side.
    """
    out = torch.empty(pixels.shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
    unblurred = torch.empty(len(numbers.blurred), *pixels.shape[1:], device=pixels.device)
    colour(pixels, numbers, norm, out, unblurred)
    if len(unblurred):
        blur(unblurred, numbers, norm, out, kernel)
    return out
