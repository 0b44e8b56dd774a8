from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.distributed import global_mean, world_size
from cl.losses.correlation import squared_norm
from cl.losses.precision import full_precision

EPS = 1e-4  # added to the variance under the root


class VICRegTerms(NamedTuple):
    """Scalars without weights. The official loss of two views is 25 invariance + 25 variance + 1 covariance."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


@full_precision
def vicreg_terms(z: Tensor, pairs: Sequence[tuple[int, int]]) -> VICRegTerms:
    """The three terms of VICReg (arXiv 2105.04906, eq. 1 to 6, with the constants of the official code).

    With z_v centred over the global batch of B images, its unbiased covariance C_v = z_v^T z_v / (B - 1):

        invariance = mean over pairs (g, v) of mean_{B, D} (z_g - z_v)^2
        variance   = mean over views of mean_d max(0, 1 - sqrt(C_dd + 1e-4))
        covariance = 2 x mean over views of sum_{i != j} C_ij^2 / D

    For two views the covariance is the paper's sum over both, and the variance half of it, as in the official code.

    Args:
        z: [V, B, D] this process's projections of each view, not normalised; half types are promoted to float32,
            float64 stays. At least two images in all processes together.
        pairs: views that are compared, as (g, v).

    Returns:
        Scalars. Statistics are those of the global batch; the mean over processes of each term is that of the global
        batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if z.ndim != 3 or world_size() * z.shape[1] < 2:
        raise ValueError(f"z is {list(z.shape)}, expected [V, B, D] with at least two images")
    batch = world_size() * z.shape[1]
    unbiased = batch / (batch - 1)
    invariance = torch.stack([F.mse_loss(z[v], z[g]) for g, v in pairs]).mean()
    variances, covariances = [], []
    for centred in z - global_mean(z.mean(dim=1))[:, None]:
        variance = unbiased * global_mean(centred.square().mean(dim=0))  # [D]
        variances.append(F.relu(1 - (variance + EPS).sqrt()).mean())
        off_diagonal = unbiased**2 * squared_norm(centred, centred) - variance.square().sum()
        covariances.append(off_diagonal / z.shape[2])
    return VICRegTerms(invariance, torch.stack(variances).mean(), 2 * torch.stack(covariances).mean())
