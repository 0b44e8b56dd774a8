"""Which images are alike."""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # queries at a time: all pairs of a million images would take 4 TB


def nearest_neighbours(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of each row, the nearest first: cosine similarity [N, K] and index [N, K].

    K is k, or N - 1 where there are no more. A row is never its own neighbour, but its copies are.

    Args:
        features: [N, F], l2-normalised here.
        k: at least 0.
    """
    unit = F.normalize(features.float(), dim=1)
    k = min(k, len(unit) - 1)
    found = []
    for begin in range(0, len(unit), CHUNK):
        cosine = unit[begin : begin + CHUNK] @ unit.T
        rows = torch.arange(len(cosine), device=cosine.device)
        cosine[rows, begin + rows] = -torch.inf
        found.append(cosine.topk(k, dim=1))
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
