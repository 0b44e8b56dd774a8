import torch.nn.functional as F
from torch import Tensor

from cl.losses.precision import full_precision


@full_precision
def byol_loss(p: Tensor, z: Tensor) -> Tensor:
    """Squared distance of normalised predictions and targets, one direction of BYOL (arXiv 2006.07733, eq. 2).

        mean_B |n(p) - n(z)|^2 = mean_B (2 - 2 cos(p, z))

    The paper's loss is the sum of both directions: 4 for unrelated predictions, 0 at best (and after a collapse).

    Args:
        p: [B, D] predictions of the student, any scale; half types are promoted to float32, float64 stays.
        z: [B, D] projections of another view by the teacher; no gradient flows into them.

    Returns:
        Scalar: the mean over this process's images. The mean over processes is the loss of the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if p.ndim != 2 or p.shape != z.shape:
        raise ValueError(f"p is {list(p.shape)} and z is {list(z.shape)}, expected [B, D] twice")
    return 2 - 2 * F.cosine_similarity(p, z.detach(), dim=1).mean()
