"""One image in a grid of images."""

from typing import Any

import numpy as np
from torch import Tensor

from cl.config.data import COLOURS

BRIGHT = 0.99  # of the values of an image of many channels are not cut off


def show_tile(tile: Tensor, axis: Any, white: float = 1.0) -> None:
    """Show `tile` [C, H, W] from 0 to `white` on a matplotlib axis: grey as RGB, of many channels the first three."""
    rgb = (tile[:COLOURS] / white).clamp(0, 1).expand(COLOURS, -1, -1)
    axis.imshow(rgb.permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def white_of(image: Tensor) -> float:
    """The value that is shown as white: a satellite's channels fill a tenth of their 16 bits, and would be black."""
    if len(image) <= COLOURS:
        return 1.0
    return max(float(np.quantile(image[:COLOURS].numpy(), BRIGHT)), 1e-6)
