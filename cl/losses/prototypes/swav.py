import torch
from torch import Tensor

from cl.losses.precision import full_precision


@full_precision
def swav_loss(scores: Tensor, assignments: Tensor, temperature: float) -> Tensor:
    """Each view predicts the assignments of the other, full-size views (SwAV, arXiv 2006.09882, eq. 2 and 6).

        mean over full-size views g and views v != g of mean_B -sum_k q_g[k] log softmax_k(s_v / T)

    ln K if all scores are equal.

    Args:
        scores: [V, B, K] cosines of the views of this process's images and the prototypes, full-size views first; half
            types are promoted to float32, float64 stays.
        assignments: [G, B, K] of the full-size views, whose rows sum to 1; no gradient flows into them.
        temperature: T, above 0.

    Returns:
        Scalar: the mean over this process's images. The mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match, or there are fewer than two views.
    """
    views, full_size = len(scores), len(assignments)
    if scores.ndim != 3 or scores.shape[1:] != assignments.shape[1:] or not 1 <= full_size <= views or views < 2:
        raise ValueError(
            f"scores are {list(scores.shape)} and assignments {list(assignments.shape)}, expected [V, B, K] and "
            "[G, B, K] with V at least 2 and G from 1 to V"
        )
    logits = scores / temperature
    logits = logits - logits.detach().amax(dim=2, keepdim=True)  # the same softmax; equal scores are exactly 0
    # -sum_k q[k] log softmax_k is log sum exp - sum_k q[k] logit[k], each a mean over the views other than g here.
    log_sums = logits.logsumexp(dim=2)
    log_sums = torch.stack([torch.cat([log_sums[:g], log_sums[g + 1 :]]).mean(dim=0) for g in range(full_size)])
    logits = (logits.sum(dim=0) - logits[:full_size]) / (views - 1)
    losses = log_sums - (assignments.detach() * logits).sum(dim=2)  # [G, B]
    return losses.mean(dtype=torch.float64).to(losses.dtype)  # in float32, of 512 times ln 3000, it would be 2e-6 off
