import torch.nn.functional as F
from torch import Tensor

from cl.losses.precision import full_precision


@full_precision
def negative_cosine_similarity(p: Tensor, z: Tensor) -> Tensor:
    """How far the predictions are from their targets: D(p, stopgrad(z)) of SimSiam, eq. 1 of arXiv 2011.10566.

    Args:
        p: [B, D] predictions, any scale; half types are promoted to float32, float64 stays.
        z: [B, D] projections of another view; no gradient flows into them, without which the network collapses.

    Returns:
        Scalar: -<p, z> of l2-normalised rows, mean over the batch; -1 at best.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if p.ndim != 2 or p.shape != z.shape:
        raise ValueError(f"p is {list(p.shape)} and z is {list(z.shape)}, expected [B, D] twice")
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()
