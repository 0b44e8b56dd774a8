"""DINO: targets of a teacher as probabilities over prototypes, and the student's cross-entropy with them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.losses.precision import full_precision


@full_precision
def dino_targets(scores: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Probabilities over prototypes that the teacher gives an image: P_t of DINO (arXiv 2104.14294, section 3.1).

        softmax_k((s_k - c_k) / T)

    Without the centre one prototype wins everywhere; without a low temperature all are equally probable.

    Args:
        scores: [..., K] of the teacher; half types are promoted to float32, float64 stays.
        centre: [K], a moving average of its scores.
        temperature: T, above 0; below the student's.

    Returns:
        [..., K], without gradient; 1 / K each if the scores minus the centre are equal.
    """
    return ((scores.detach() - centre) / temperature).softmax(dim=-1)


@full_precision
def dino_loss(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the teacher's probabilities and the student's, one pair of views (arXiv 2104.14294, eq. 2).

        mean_B -sum_k t_k log softmax_k(s / T)

    The entropy of the targets plus their divergence from the student; ln K if all scores and all targets are equal. The
    paper's loss is the mean over the pairs of a full-size target and any other view.

    Args:
        scores: [B, K] of one view by the student; half types are promoted to float32, float64 stays.
        targets: [B, K] probabilities of another view by the teacher; no gradient flows into them.
        temperature: T, above 0.

    Returns:
        Scalar: the mean over this process's images. The mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores are {list(scores.shape)} and targets {list(targets.shape)}, expected [B, K] twice")
    return F.cross_entropy(scores / temperature, targets.detach())


@full_precision
def mean_entropy(probabilities: Tensor) -> Tensor:
    """[..., K] probabilities -> scalar, the mean of their entropies in nats: 0 if one is 1, ln K if they are equal."""
    return torch.special.entr(probabilities).sum(dim=-1).mean()
