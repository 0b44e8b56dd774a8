import torch
import torch.nn.functional as F
from torch import Tensor

from cl.distributed import gather
from cl.losses.blockwise import mean_cross_entropy
from cl.losses.precision import full_precision


@full_precision
def nt_xent_loss(z: Tensor, ids: Tensor, temperature: float, decoupled: bool = False) -> Tensor:
    """NT-Xent and SupCon in one form: attract rows with the same id, repel all others.

    For anchor i, with similarities s_ij = <z_i, z_j> / temperature of l2-normalised rows, all others A(i) = {j != i}
    and positives P(i) = {p in A(i): ids_p = ids_i}:

        l_i = -1/|P(i)| * sum_{p in P(i)} (s_ip - log sum_{a in A(i)} exp(s_ia))

    With instance ids, each occurring twice, this is NT-Xent (SimCLR, arXiv 2002.05709, eq. 1); with class ids it is
    L_out of SupCon (arXiv 2004.11362, eq. 2), without the reference code's factor temperature / base_temperature.
    `decoupled` takes the positives out of the sum over A(i): with pairs, DCL (arXiv 2110.06848), which can be negative.

    Args:
        z: [N, D] projections of all views (N = V B), any scale; half types are promoted to float32, float64 stays.
        ids: [N] int64.
        temperature: above 0.
        decoupled: whether the positives leave the denominator.

    Returns:
        Scalar: the mean of l_i over this process's N anchors; an anchor without a positive, or with an empty
        denominator, counts as 0. A(i) and P(i) span all processes, and the mean over processes is the loss of the
        global batch.

    Raises:
        ValueError: if the shapes do not match.
    """
    if z.ndim != 2 or ids.shape != z.shape[:1]:
        raise ValueError(f"z is {list(z.shape)} and ids is {list(ids.shape)}, expected [N, D] and [N]")
    z = F.normalize(z, dim=1)
    group, positives = grouped(gather(ids))
    return mean_cross_entropy(z, gather(z), group, positives, temperature, decoupled)


def grouped(ids: Tensor) -> tuple[Tensor, Tensor]:
    """[N] int64 -> [N] the number of each row's group, and [N] how many other rows it has.

    Rows with the same id are a group; its number is the position of its first row in ascending order. `unique` and
    `bincount` would ask a GPU how many groups there are, and wait for it.
    """
    ascending = ids.sort().values
    group = torch.searchsorted(ascending, ids)
    return group, torch.searchsorted(ascending, ids, right=True) - group - 1
