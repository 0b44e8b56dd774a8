"""Sums over all pairs of dimensions, without keeping more than the smaller of D x D and B x B."""

from torch import Tensor

from cl.distributed import gather, global_mean, world_size


def squared_norm(z1: Tensor, z2: Tensor) -> Tensor:
    """Scalar: the sum of the squares of C = z1^T z2 / B, over the global batch of B rows; differentiable.

    It also equals <z1 z1^T, z2 z2^T> / B^2. The mean over processes is that of the global batch.

    Args:
        z1: [B, D] this process's rows, as many on each.
        z2: [B, D].
    """
    batch = world_size() * len(z1)
    if batch < z1.shape[1]:
        gram1, gram2 = z1 @ gather(z1).T, z2 @ gather(z2).T  # this process's rows; their sum times W has the right mean
        return world_size() * (gram1 * gram2).sum() / batch**2
    return global_mean(z1.T @ z2 / len(z1)).square().sum()
