from torch import Tensor

from cl.losses.precision import full_precision
from cl.losses.simsiam import negative_cosine_similarity


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
    return 2 + 2 * negative_cosine_similarity(p, z)
