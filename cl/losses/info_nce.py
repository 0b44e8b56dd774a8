"""InfoNCE: the share of the positive in a softmax over similarities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.distributed import gather, rank
from cl.losses.precision import full_precision


@full_precision
def info_nce_loss(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Each anchor identifies the candidate of its image among those of all images (NNCLR, arXiv 2104.14548, eq. 3).

        mean_i -log( exp(<n(a_i), n(c_i)> / T) / sum_j exp(<n(a_i), n(c_j)> / T) )

    ln B if all are equal, for a global batch of B images.

    Args:
        anchors: [B, D] of this process's images, any scale; half types are promoted to float32, float64 stays.
        candidates: [B, D] of another view of these images, any scale.
        temperature: T, above 0.

    Returns:
        Scalar: the mean over this process's anchors. The candidates are those of all processes, with their gradients,
        and the mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    _check_shapes(anchors, candidates)
    return _identify(F.normalize(anchors, dim=1), gather(F.normalize(candidates, dim=1)), temperature)


@full_precision
def moco_v3_loss(q: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Each query identifies the key of its image among those of the global batch: ctr of MoCo v3 (arXiv 2104.02057).

        2 T x mean_B of -log softmax_j(<n(q_i), n(k_j)> / T) at j = i

    The factor 2 T is the paper's (Algorithm 1). Its loss is the sum of both directions, 4 T ln B if all keys are equal.

    Args:
        q: [B, D] predictions of one view by this process, any scale; half types are promoted to float32, float64 stays.
        keys: [W B, D] the teacher's projections of another view by all processes in the order of ranks, any scale; no
            gradient flows into them.
        temperature: T, above 0.

    Returns:
        Scalar: the mean over this process's images. The mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if q.ndim != 2 or keys.ndim != 2 or q.shape[1] != keys.shape[1]:
        raise ValueError(f"q is {list(q.shape)} and keys is {list(keys.shape)}, expected [B, D] and [W B, D]")
    return 2 * temperature * _identify(F.normalize(q, dim=1), F.normalize(keys.detach(), dim=1), temperature)


@full_precision
def moco_v2_loss(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Each query identifies the key of its image among the rows of a queue (MoCo, arXiv 1911.05722, eq. 1).

        mean_i -log( exp(<n(q_i), n(k_i)> / T) / (exp(<n(q_i), n(k_i)> / T) + sum_j exp(<n(q_i), r_j> / T)) )

    ln(K + 1) if all are equal. Other images of the batch are no negatives: the loss of an image is its own.

    Args:
        queries: [B, D] of this process's images, any scale; half types are promoted to float32, float64 stays.
        keys: [B, D] of another view of these images, any scale; no gradient flows into them.
        negatives: [K, D] unit rows r without gradient.
        temperature: T, above 0.

    Returns:
        Scalar: the mean over this process's images. The mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    _check_shapes(queries, keys)
    q = F.normalize(queries, dim=1)
    positive = (q * F.normalize(keys.detach(), dim=1)).sum(dim=1, keepdim=True)
    similarity = torch.cat([positive, q @ negatives.T], dim=1)  # [B, 1 + K]
    return F.cross_entropy(similarity / temperature, similarity.new_zeros(len(q), dtype=torch.int64))


def _identify(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of unit rows: [B, D] of this process's images, [W B, D] of all in the order of ranks."""
    own = torch.arange(len(anchors), device=anchors.device) + rank() * len(anchors)
    return F.cross_entropy(anchors @ candidates.T / temperature, own)


def _check_shapes(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"the rows are {list(a.shape)} and {list(b.shape)}, expected [B, D] twice")
