"""One image in a grid of images."""

from typing import Any

from torch import Tensor


def show_tile(tile: Tensor, axis: Any) -> None:
    """Show `tile` [C, H, W] in [0, 1] on a matplotlib axis; grey images become RGB."""
    axis.imshow(tile.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
