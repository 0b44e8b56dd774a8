"""The batch that every loader yields and every method receives. Shape letters of the whole package:

B  images per process and step      V  views per image       D  projector outputs
W  processes                        R  resolutions           F  backbone features
                                    C  channels: 3, or 1 for grey
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    index: Tensor  # [B] int64, unique within the data set
    views: tuple[Tensor, ...]  # one tensor per resolution, full size first: [V_r, B, C, H, W], normalised
    target: Tensor  # [B] int64, -1 if there is no label

    def to(self, device: torch.device) -> "Batch":
        """Copy this batch to `device`; Lightning calls it."""
        views = tuple(tensor.to(device, non_blocking=True) for tensor in self.views)
        return Batch(self.index.to(device, non_blocking=True), views, self.target.to(device, non_blocking=True))

    def to_dtype(self, dtype: torch.dtype) -> "Batch":
        """This batch with views of another floating-point type."""
        return Batch(self.index, tuple(tensor.to(dtype) for tensor in self.views), self.target)

    def pin_memory(self) -> "Batch":
        """Copy this batch to page-locked memory; torch's DataLoader calls it."""
        views = tuple(tensor.pin_memory() for tensor in self.views)
        return Batch(self.index.pin_memory(), views, self.target.pin_memory())
