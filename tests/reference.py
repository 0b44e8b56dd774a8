"""Slow twins: each formula as its paper writes it, with loops, in float64."""

import math

import numpy as np
import torch
from torch import Tensor


def supcon(z: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """L_out of SupCon, eq. 2 of arXiv 2004.11362, as a mean over all anchors; one without a positive counts as 0."""
    z = torch.stack([row / row.norm() for row in z.double()])
    total = z.new_zeros(())
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if ids[p] == ids[i]]
        denominator = sum(torch.exp(z[i] @ z[a] / temperature) for a in others)
        for p in positives:
            total = total - torch.log(torch.exp(z[i] @ z[p] / temperature) / denominator) / len(positives)
    return total / len(z)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Algorithm 1 of SimCLR, arXiv 2002.05709: l(i, j) of eq. 1 for both orders of each pair, over 2N."""
    n = len(z1)
    z = [row / row.norm() for row in torch.cat([z1, z2]).double()]

    def loss(i: int, j: int) -> Tensor:
        similarities = [torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        return -torch.log(torch.exp(z[i] @ z[j] / temperature) / sum(similarities))

    return sum(loss(k, n + k) + loss(n + k, k) for k in range(n)) / (2 * n)  # type: ignore[return-value]


def knn(bank: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, temperature: float) -> int:
    """The class with the most votes exp(cosine / T) among the k nearest."""
    cosine = [float(b @ query / np.linalg.norm(b) / np.linalg.norm(query)) for b in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -cosine[i])[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(cosine[i] / temperature)
    return max(votes, key=lambda label: votes[label])
