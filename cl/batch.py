"""What every loader yields and every method receives. The shape legend of the whole package:

B  images per process and step      V  views per image       D  outputs of the projector
W  processes                        R  resolutions           F  features of the backbone
"""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    index: Tensor  # [B] int64, unique in the data set
    views: tuple[Tensor, ...]  # per resolution, the full size first: [V_r, B, 3, H, W], normalised
    target: Tensor  # [B] int64, -1 for no label
