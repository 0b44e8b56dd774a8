import torch.nn.functional as F
from torch import Tensor

from cl.losses.precision import full_precision


@full_precision
def negative_cosine_similarity(p: Tensor, z: Tensor) -> Tensor:
    """The distance of the predictions from their targets: D(p, stopgrad(z)) of SimSiam (arXiv 2011.10566, eq. 1).

    Args:
        p: [B, D] predictions, any scale; half types are promoted to float32, float64 stays.
        z: [B, D] projections of another view; they get no gradient: with one, the network collapses.

    Returns:
        Scalar: -<p, z> of l2-normalised rows, mean over the batch; -1 at best. The mean over processes is the loss of
        the global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if p.ndim != 2 or p.shape != z.shape:
        raise ValueError(f"p is {list(p.shape)} and z is {list(z.shape)}, expected [B, D] twice")
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()
