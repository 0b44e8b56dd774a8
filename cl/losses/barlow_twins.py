from typing import Any

import torch
from torch import Tensor

from cl.distributed import global_mean
from cl.losses.correlation import squared_norm
from cl.losses.precision import full_precision

EPS = 1e-5  # of batch norm, with which the reference code standardises


@full_precision
def barlow_twins_loss(z1: Tensor, z2: Tensor, lamb: float, scale: float) -> Tensor:
    """Push the cross-correlation matrix of the two views towards the identity.

    With each dimension standardised over the global batch (mean 0, biased variance 1) and the correlations
    C = z1^T z2 / B:

        scale * (sum_i (1 - C_ii)^2 + lamb * sum_{i != j} C_ij^2)

    At scale 1 this is eq. 1 of Barlow Twins (arXiv 2103.03230). Under LARS the scale affects only biases and norms.

    Args:
        z1: [B, D] this process's projections of one view, any scale; half types are promoted to float32, float64 stays.
        z2: [B, D] of the other view.
        lamb: weight of the off-diagonal correlations; 0.005 in the paper.
        scale: factor on the whole loss.

    Returns:
        Scalar: a sum over the D x D correlations, each a mean over the batch of all processes. The mean over processes
        is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"z1 is {list(z1.shape)} and z2 is {list(z2.shape)}, expected [B, D] twice")
    z1, z2 = _Standardized.apply(torch.stack([z1, z2]))
    diagonal = global_mean((z1 * z2).mean(dim=0))
    off_diagonal = squared_norm(z1, z2) - diagonal.square().sum()
    return scale * ((1 - diagonal).square().sum() + lamb * off_diagonal)


class _Standardized(torch.autograd.Function):
    """[V, B, D] -> [V, B, D], columns with mean 0 and variance 1 over the global batch; a constant one becomes 0.

    One function for both views instead of many small operations: at B 512, D 2048 a GPU spent its time on launches.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        centred = z - global_mean(z.mean(dim=1, keepdim=True))
        inverse = torch.rsqrt(global_mean(centred.square().mean(dim=1, keepdim=True)) + EPS)
        y = centred * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        g = gradients[0]
        parts = torch.stack([g.mean(dim=1, keepdim=True), (g * y).mean(dim=1, keepdim=True)])
        of_mean, of_variance = global_mean(parts)  # all processes contribute to the mean and the variance
        return (g - of_mean - y * of_variance) * inverse
