"""Prototypes: directions that projections are compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.losses.precision import full_precision


class Prototypes(nn.Module):
    """[K, D] unit rows, which learn freely within a step and are normalised after it (SwAV, arXiv 2006.09882)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    @full_precision
    def forward(self, z: Tensor) -> Tensor:
        """[..., D] projections -> [..., K] cosines, of float32 at least."""
        return F.normalize(z, dim=-1) @ self.weight.T

    @torch.no_grad()
    def normalise(self, taken: Tensor) -> None:
        """Give each row the length 1; not where `taken` is 0, for that changes the last bits of unit rows, too."""
        self.weight.copy_(torch.where(taken > 0, F.normalize(self.weight, dim=1), self.weight))


class NormalisedPrototypes(nn.Module):
    """[K, D] rows of any length, normalised where they are used (DINO, arXiv 2104.14294, with `norm_last_layer`)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    @full_precision
    def forward(self, z: Tensor) -> Tensor:
        """[..., D] projections -> [..., K] cosines, of float32 at least: bfloat16 has steps of 0.004, / 0.04 = 0.1."""
        return F.normalize(z, dim=-1) @ F.normalize(self.weight, dim=1).T
