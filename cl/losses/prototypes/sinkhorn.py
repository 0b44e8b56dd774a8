"""Sinkhorn-Knopp: assign images to prototypes in equal shares."""

import torch
from torch import Tensor

from cl.distributed import max_over_ranks, sum_over_ranks
from cl.losses.precision import full_precision

ITERATIONS = 3  # of the paper and its code


@full_precision
@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int = ITERATIONS, counts: Tensor | None = None) -> Tensor:
    """Assign the images of all processes to prototypes in equal shares (SwAV, arXiv 2006.09882, section 3.1).

        Q = exp(S / epsilon); then in turn, `iterations` times: each column of Q is divided by its sum over the images
        of all processes, each row by its own sum

    So rows sum to 1, and columns, of N images over all processes, to N / K once the iterations have converged. These
    are the steps of the official code, where constant factors differ, which the last step removes. They are taken on
    log Q: exp(1 / epsilon) overflows in float32 below 0.0113, and with one maximum subtracted from all scores, rows and
    columns of exp((S - max S) / 0.005) that are 0.5 below it are all 0, and their quotients NaN.

    Args:
        scores: [..., N, K] cosines of this process's images and the prototypes, for each view of its own; half types
            are promoted to float32, float64 stays. N may differ between processes.
        epsilon: above 0; the smaller, the closer each row is to one prototype.
        iterations: at least 1.
        counts: [N] bool, whether a row takes part in the sums of the columns; by default all do.

    Returns:
        [..., N, K] without gradient.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        counted = log_q if counts is None else log_q.masked_fill(~counts[:, None], -torch.inf)
        balanced = log_q - _log_of_column_sums(counted)
        log_q = balanced.log_softmax(dim=-1)
    return balanced.softmax(dim=-1)  # rows sum to 1 more closely than those of log_q.exp()


def _log_of_column_sums(log_q: Tensor) -> Tensor:
    """[..., N, K] -> [..., 1, K], of the rows of all processes."""
    largest = max_over_ranks(log_q.amax(dim=-2, keepdim=True))
    return largest + sum_over_ranks((log_q - largest).exp().sum(dim=-2, keepdim=True)).log()
