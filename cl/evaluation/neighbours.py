"""Nearest-neighbour search among images."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # queries at a time: all pairs of a million images would take 4 TB


def nearest_neighbours(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of each row, nearest first: cosine similarity [N, K] and index [N, K].

    K is k, but at most N - 1. A row is never its own neighbour; exact duplicates of it can be.

    Args:
        features: [N, F], l2-normalised here.
        k: at least 0.
    """
    unit = F.normalize(features.float(), dim=1)
    k = min(k, len(unit) - 1)
    chunks = []
    for begin in range(0, len(unit), CHUNK):
        cosine = unit[begin : begin + CHUNK] @ unit.T
        rows = torch.arange(len(cosine), device=cosine.device)
        cosine[rows, begin + rows] = -torch.inf
        chunks.append(cosine.topk(k, dim=1))
    return torch.cat([chunk.values for chunk in chunks]), torch.cat([chunk.indices for chunk in chunks])
