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


def dcl(z: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """DCL, arXiv 2110.06848: NT-Xent whose denominator lacks the positives; an anchor without negatives counts as 0."""
    z = torch.stack([row / row.norm() for row in z.double()])
    total = z.new_zeros(())
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and ids[p] == ids[i]]
        negatives = [a for a in range(len(z)) if ids[a] != ids[i]]
        if not negatives:
            continue
        for p in positives:
            others = sum(torch.exp(z[i] @ z[a] / temperature) for a in negatives)
            total = total + (-(z[i] @ z[p]) / temperature + torch.log(others)) / len(positives)
    return total / len(z)


def knn(bank: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, temperature: float) -> int:
    """The class with the most votes exp(cosine / T) among the k nearest."""
    cosine = [float(b @ query / np.linalg.norm(b) / np.linalg.norm(query)) for b in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -cosine[i])[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[labels[i]] = votes.get(labels[i], 0.0) + math.exp(cosine[i] / temperature)
    return max(votes, key=lambda label: votes[label])


def barlow_twins(z1: Tensor, z2: Tensor, lamb: float, scale: float) -> Tensor:
    """Eq. 1 and 2 of Barlow Twins, arXiv 2103.03230, element by element; eps 1e-5 as in its batch norm."""
    n, dim = z1.shape
    columns = []
    for z in (z1, z2):
        for d in range(dim):
            mean = sum(z[b, d] for b in range(n)) / n
            variance = sum((z[b, d] - mean) ** 2 for b in range(n)) / n
            columns.append([(z[b, d] - mean) / torch.sqrt(variance + 1e-5) for b in range(n)])
    total = z1.new_zeros(())
    for i in range(dim):
        for j in range(dim):
            c = sum(columns[i][b] * columns[dim + j][b] for b in range(n)) / n
            total = total + ((1 - c) ** 2 if i == j else lamb * c**2)
    return scale * total


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """D of SimSiam, eq. 1 of arXiv 2011.10566, with the stop-gradient of eq. 3."""
    rows = [(a / a.norm()) @ (b / b.norm()) for a, b in zip(p, z.detach(), strict=True)]
    return -sum(rows) / len(rows)  # type: ignore[return-value]


def byol(p: Tensor, z: Tensor) -> Tensor:
    """Eq. 2 of BYOL, arXiv 2006.07733: squared distance of unit vectors, mean over images; one direction."""
    distances = [(a / a.norm() - b / b.norm()).square().sum() for a, b in zip(p, z.detach(), strict=True)]
    return sum(distances) / len(distances)  # type: ignore[return-value]


def vicreg(views: list[Tensor], pairs: list[tuple[int, int]]) -> Tensor:
    """Eq. 1 to 6 of VICReg, arXiv 2105.04906, element by element, with 25, 25, 1 and the official code's constants."""
    n, dim = views[0].shape
    total = views[0].new_zeros(())
    for g, v in pairs:
        squares = sum((views[g][b, d] - views[v][b, d]) ** 2 for b in range(n) for d in range(dim))
        total = total + 25 * squares / (n * dim) / len(pairs)
    for z in views:
        mean = [sum(z[b, d] for b in range(n)) / n for d in range(dim)]
        for i in range(dim):
            for j in range(dim):
                c = sum((z[b, i] - mean[i]) * (z[b, j] - mean[j]) for b in range(n)) / (n - 1)
                if i == j:
                    total = total + 25 * torch.relu(1 - torch.sqrt(c + 1e-4)) / dim / len(views)
                else:
                    total = total + 2 * c**2 / dim / len(views)  # of two views: the sum of both
    return total


def moco_v3(q: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """ctr(q, k) in Algorithm 1 of MoCo v3, arXiv 2104.02057; query i belongs to key i."""
    q, keys = (torch.stack([row / row.norm() for row in rows]) for rows in (q, keys.detach()))
    losses = []
    for i in range(len(q)):
        similarities = [torch.exp(q[i] @ k / temperature) for k in keys]
        losses.append(-torch.log(similarities[i] / sum(similarities)))
    return 2 * temperature * sum(losses) / len(q)


def lejepa(views: list[Tensor], full_size: int, directions: Tensor, weight: float) -> Tensor:
    """LeJEPA, arXiv 2511.08544: Epps and Pulley's statistic on [-3, 3] at 33 knots, along each direction by itself."""
    n, dim = views[0].shape
    centre = sum(views[:full_size]) / full_size
    squares = sum((z[b, d] - centre[b, d]) ** 2 for z in views for b in range(n) for d in range(dim))
    invariance = squares / (len(views) * n * dim)
    step, statistics = 3 / 16, []
    for z in views:
        for a in directions.double():
            x, integral = z @ (a / a.norm()), z.new_zeros(())
            for knot in range(-16, 17):
                t = knot * step
                difference = sum(torch.exp(1j * t * each) for each in x) / n - math.exp(-(t**2) / 2)
                width = step / 2 if abs(knot) == 16 else step
                integral = integral + width * (difference * difference.conj()).real * math.exp(-(t**2) / 2)
            statistics.append(n * integral)
    return (1 - weight) * invariance + weight * sum(statistics) / len(statistics)


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Eq. 3 of NNCLR, arXiv 2104.14548, one direction: anchor i is to find candidate i."""
    total = anchors.new_zeros(())
    for i, anchor in enumerate(anchors):
        scores = [torch.exp(anchor @ c / anchor.norm() / c.norm() / temperature) for c in candidates]
        total = total - torch.log(scores[i] / sum(scores)) / len(anchors)
    return total


def moco_v2(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Eq. 1 of MoCo, arXiv 1911.05722: the key of its image against the rows of the queue; keys have no gradient."""
    total = queries.new_zeros(())
    for query, key in zip(queries, keys.detach(), strict=True):
        q = query / query.norm()
        positive = torch.exp(q @ key / key.norm() / temperature)
        total = total - torch.log(positive / (positive + sum(torch.exp(q @ row / temperature) for row in negatives)))
    return total / len(queries)


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """distributed_sinkhorn of SwAV's code (arXiv 2006.09882, appendix A): as a whole, by column, by row, with sums."""
    q = [[math.exp(each / epsilon) for each in row] for row in scores.tolist()]
    images, prototypes = scores.shape
    total = sum(map(sum, q))
    q = [[each / total for each in row] for row in q]
    for _ in range(iterations):
        columns = [sum(row[k] for row in q) for k in range(prototypes)]
        q = [[row[k] / columns[k] / prototypes for k in range(prototypes)] for row in q]
        q = [[each / sum(row) / images for each in row] for row in q]
    return images * scores.new_tensor(q)


def swav(scores: list[Tensor], assignments: list[Tensor], temperature: float) -> Tensor:
    """The loop of SwAV's main_swav.py: the mean over full-size views of the mean over the other views."""
    total = scores[0].new_zeros(())
    for g, assigned in enumerate(assignments):
        subloss = total.new_zeros(())
        for v in [v for v in range(len(scores)) if v != g]:
            for q, s in zip(assigned, scores[v], strict=True):
                exponentials = [torch.exp(each / temperature) for each in s]
                terms = [q[k] * torch.log(exponentials[k] / sum(exponentials)) for k in range(len(s))]
                subloss = subloss - sum(terms) / len(assigned)
        total = total + subloss / (len(scores) - 1)
    return total / len(assignments)


def dino(scores: Tensor, teacher: Tensor, centre: Tensor, temperature: float, teacher_temperature: float) -> Tensor:
    """H(P_t(x'), P_s(x)) of DINO, arXiv 2104.14294, eq. 1 and 2, for one pair of views; the teacher is centred."""
    total = scores.new_zeros(())
    for ours, theirs in zip(scores, teacher.detach(), strict=True):
        student = [torch.exp(s / temperature) for s in ours]
        targets = [torch.exp((t - c) / teacher_temperature) for t, c in zip(theirs, centre, strict=True)]
        for s, t in zip(student, targets, strict=True):
            total = total - t / sum(targets) * torch.log(s / sum(student))
    return total / len(scores)


def nearest(z: Tensor, rows: Tensor) -> int:
    """The position of the row with the largest cosine to z, eq. 2 of NNCLR."""
    cosine = [(z @ row / z.norm() / row.norm()).item() for row in rows]
    return cosine.index(max(cosine))


def lars(weights: list[np.ndarray], gradients: list[list[np.ndarray]], lr: float, decay: float) -> list[np.ndarray]:
    """LARS (arXiv 1708.03888) as SimCLR uses it: eta 1e-3, momentum 0.9; vectors (biases, norms) take plain steps."""
    weights, velocity = [w.copy() for w in weights], [np.zeros_like(w) for w in weights]
    for step in gradients:
        for w, g, v in zip(weights, step, velocity, strict=True):
            update = g
            if w.ndim > 1:
                norms = np.linalg.norm(w), np.linalg.norm(g)
                trust = 1e-3 * norms[0] / (norms[1] + decay * norms[0]) if min(norms) > 0 else 1.0
                update = trust * (g + decay * w)
            v[:] = 0.9 * v + update
            w -= lr * v
    return weights


def health(z1: np.ndarray, z2: np.ndarray) -> dict[str, float]:
    """SimSiam's standard deviation, RankMe, alignment and uniformity, and mean cosines, by their definitions."""
    z1, z2 = (np.stack([row / np.linalg.norm(row) for row in z]) for z in (z1, z2))
    n, dim = z1.shape
    singular = np.linalg.svd(z1, compute_uv=False)
    p = [s / sum(singular) for s in singular if s > 0]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    return {
        "std": float(np.mean([z1[:, d].std() for d in range(dim)])) * math.sqrt(dim),
        "rank": math.exp(-sum(each * math.log(each) for each in p)),
        "alignment": float(np.mean([np.sum((a - b) ** 2) for a, b in zip(z1, z2, strict=True)])),
        "uniformity": math.log(np.mean([math.exp(-2 * np.sum((z1[i] - z1[j]) ** 2)) for i, j in pairs])),
        "positive_cosine": float(np.mean([a @ b for a, b in zip(z1, z2, strict=True)])),
        "negative_cosine": float(np.mean([z1[i] @ z1[j] for i, j in pairs])),
    }
