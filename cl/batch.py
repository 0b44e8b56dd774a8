"""What every loader yields and every method receives. The shape legend of the whole package:

B  images per process and step      V  views per image       D  outputs of the projector
W  processes                        R  resolutions           F  features of the backbone
                                    C  channels: 3, or 1 for grey
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    index: Tensor  # [B] int64, unique in the data set
    views: tuple[Tensor, ...]  # per resolution, the full size first: [V_r, B, C, H, W], normalised
    target: Tensor  # [B] int64, -1 for no label

    def to(self, device: torch.device) -> "Batch":
        """This batch on `device`; Lightning calls it."""
        views = tuple(each.to(device, non_blocking=True) for each in self.views)
        return Batch(self.index.to(device, non_blocking=True), views, self.target.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """This batch in page-locked memory; torch's DataLoader calls it."""
        return Batch(self.index.pin_memory(), tuple(each.pin_memory() for each in self.views), self.target.pin_memory())
