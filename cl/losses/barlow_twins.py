import torch
from torch import Tensor

from cl.distributed import gather, global_mean, world_size
from cl.losses.precision import full_precision

EPS = 1e-5  # of batch norm, which is what the reference code standardises with


@full_precision
def barlow_twins_loss(z1: Tensor, z2: Tensor, lamb: float, scale: float) -> Tensor:
    """Make the two views' dimensions agree with one another and with no other dimension.

    With each dimension standardised over the global batch (mean 0, biased variance 1) and the correlations
    C = z1^T z2 / B:

        scale * (sum_i (1 - C_ii)^2 + lamb * sum_{i != j} C_ij^2)

    which is eq. 1 of Barlow Twins (arXiv 2103.03230) at scale 1. Under LARS the scale reaches biases and norms alone.

    Args:
        z1: [B, D] this process's projections of one view, any scale; half types are promoted to float32, float64 stays.
        z2: [B, D] of the other.
        lamb: weight of the off-diagonal correlations; 0.005 in the paper.
        scale: factor on the whole loss.

    Returns:
        Scalar: sums over the D x D correlations, each of which is a mean over the batch of all processes. The mean over
        processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"z1 is {list(z1.shape)} and z2 is {list(z2.shape)}, expected [B, D] twice")
    z1, z2 = _standardized(z1), _standardized(z2)
    batch = world_size() * len(z1)
    diagonal = global_mean((z1 * z2).mean(dim=0))
    # The sum of squares of C is <z1 z1^T, z2 z2^T> / B^2 as well: the smaller of D x D and B x B is computed.
    if batch < z1.shape[1]:
        grams = [z @ gather(z).T for z in (z1, z2)]  # this process's rows: W times their sum has the right mean
        squares = world_size() * (grams[0] * grams[1]).sum() / batch**2
    else:
        squares = global_mean(z1.T @ z2 / len(z1)).square().sum()
    off_diagonal = squares - diagonal.square().sum()
    return scale * ((1 - diagonal).square().sum() + lamb * off_diagonal)


def _standardized(z: Tensor) -> Tensor:
    """[B, D] with mean 0 and variance 1 of each column over the global batch; a column of equal values becomes 0."""
    z = z - global_mean(z.mean(dim=0))
    return z * torch.rsqrt(global_mean(z.square().mean(dim=0)) + EPS)
