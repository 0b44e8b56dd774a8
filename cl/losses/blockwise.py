"""Cross-entropy of similarities, a block of rows at a time: nothing of size N^2 is ever kept."""

from typing import Any

import torch
from torch import Tensor

from cl.distributed import rank

BLOCK = 2**22  # similarities at a time: 16 MB in float32, which a cache holds better than more


def mean_cross_entropy(z: Tensor, everyone: Tensor, group: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Mean over rows of log sum_{j != i} exp(s_ij) - mean_{p in P(i)} s_ip, differentiable in `z` and `everyone`.

    s_ij = <z_i, everyone_j> / temperature; P(i) has the others of i's group, and a row without one counts as 0. Loss
    and gradient come from one pass: the exponentials of a block enter both gradients while they are there, and the
    positives of a group enter by their sum.

    Args:
        z: [N, D] this process's rows.
        everyone: [W N, D] the rows of all processes in the order of ranks, `z` among them.
        group: [W N] int64 in [0, W N).
        positives: [W N] int64, the others in each row's group.
        temperature: above 0.

    Returns:
        Scalar.
    """
    return _MeanCrossEntropy.apply(z, everyone, group, positives, temperature)


class _MeanCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, everyone: Tensor, group: Tensor, positives: Tensor, temperature: float) -> Tensor:
        own = slice(rank() * len(z), (rank() + 1) * len(z))
        group_of = group[own]
        others = positives[own, None]
        weight = (others > 0).to(z.dtype) / len(z)  # [N, 1]
        scaled = z / temperature
        pull = weight / others.clamp(min=1) / temperature
        friends = _sums(everyone, group)[group_of] - z
        loss = -(pull * z * friends).sum()
        grad_z = pull * (z - friends)
        grad_everyone = -_sums(pull * z, group_of, len(group))[group]
        rows = max(1, min(len(z), BLOCK // len(everyone)))
        buffer = z.new_empty(rows, len(everyone))
        for begin in range(0, len(z), rows):
            block = slice(begin, min(begin + rows, len(z)))
            exponential = torch.mm(scaled[block], everyone.T, out=buffer[: block.stop - begin])
            exponential[:, own.start + begin :].diagonal().fill_(torch.finfo(z.dtype).min)  # itself
            largest = exponential.amax(dim=1, keepdim=True)
            sums = exponential.sub_(largest).exp_().sum(dim=1, keepdim=True)
            loss += (weight[block] * (sums.log() + largest)).sum()
            share = weight[block] / sums
            grad_z[block].addcmul_(exponential @ everyone, share / temperature)
            grad_everyone.addmm_(exponential.T, scaled[block] * share)
        ctx.save_for_backward(grad_z, grad_everyone)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_z, grad_everyone = ctx.saved_tensors
        return gradients[0] * grad_z, gradients[0] * grad_everyone, None, None, None


def _sums(rows: Tensor, group: Tensor, groups: int | None = None) -> Tensor:
    """[groups, D] the sum of the rows of each group."""
    return rows.new_zeros(groups or len(rows), rows.shape[1]).index_add_(0, group, rows)
