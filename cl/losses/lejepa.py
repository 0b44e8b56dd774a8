from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.distributed import global_mean, world_size
from cl.losses.precision import full_precision

LAST_KNOT = 3.0
KNOTS = 17  # on [0, 3], as in the official code


class LeJEPATerms(NamedTuple):
    """Scalars without weights. The loss is (1 - weight) x invariance + weight x sigreg."""

    invariance: Tensor
    sigreg: Tensor


@full_precision
def lejepa_terms(z: Tensor, full_size: int, directions: Tensor) -> LeJEPATerms:
    """The two terms of LeJEPA (arXiv 2511.08544, with the constants of the official code).

    c is the mean of the full-size views. phi_vs(t) = mean_B exp(i t <z_v, a_s>) is the characteristic function of view
    v along direction s; that of a standard normal variable is exp(-t^2/2). With the global batch of B images:

        invariance = mean over views, images and dimensions of (z_v - c)^2
        sigreg     = mean over views and directions of
                     B x integral from -3 to 3 of |phi_vs(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt

    The integral (Epps and Pulley's statistic) is twice that from 0 to 3, by the trapezoidal rule with 17 knots. Its
    expectation for normal projections is 1.05, whatever B; equal projections give at least 0.402 B, which is reached if
    all are 0.

    Args:
        z: [V, B, D] this process's projections of each view, full-size first, not normalised; half types are promoted
            to float32, float64 stays.
        full_size: the number of full-size views.
        directions: [S, D], the same on all processes, any length; no gradient flows into them.

    Returns:
        Scalars. The characteristic function is that of the global batch; the mean over processes of each term is that
        of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if z.ndim != 3 or directions.ndim != 2 or directions.shape[1] != z.shape[2]:
        raise ValueError(f"z is {list(z.shape)}, directions {list(directions.shape)}, expected [V, B, D] and [S, D]")
    invariance = (z - z[:full_size].mean(dim=0)).square().mean()
    knots = torch.linspace(0, LAST_KNOT, KNOTS, dtype=z.dtype, device=z.device)
    normal = torch.exp(-knots.square() / 2)
    unit = F.normalize(directions.detach().to(z.dtype), dim=1)
    angles = (z @ unit.T)[..., None] * knots  # [V, B, S, T]
    real, imaginary = global_mean(torch.stack([angles.cos().mean(dim=1), angles.sin().mean(dim=1)]))  # [V, S, T] each
    distance = (real - normal).square() + imaginary.square()
    integral = 2 * torch.trapezoid(distance * normal, dx=LAST_KNOT / (KNOTS - 1))
    return LeJEPATerms(invariance, world_size() * z.shape[1] * integral.mean())
