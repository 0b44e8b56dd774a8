"""Cross-entropy of similarities, one block of rows at a time: no N x N tensor is ever stored."""

from typing import Any

import torch
from torch import Tensor

from cl.distributed import rank

# Similarities at a time. 16 MB in float32 fit a CPU's cache; a GPU wants few, large matrix products: with 134 MB there
# are two blocks at B 4096, and 32 at B 16,384, where all similarities together would take 4.3 GB.
BLOCK = {"cpu": 2**22, "cuda": 2**25}


def mean_cross_entropy(
    z: Tensor, z_all: Tensor, group: Tensor, positives: Tensor, temperature: float, decoupled: bool = False
) -> Tensor:
    """Mean over rows of log sum_{j in A(i)} exp(s_ij) - mean_{p in P(i)} s_ip, differentiable in `z` and `z_all`.

    s_ij = <z_i, z_all_j> / temperature; P(i) holds the other rows of i's group, and A(i) all other rows, or those of
    other groups if `decoupled`. A row with empty P(i) or A(i) counts as 0.
    Loss and gradient come from one pass: both gradients use the exponentials of a block while they exist, and the
    positives enter by the sum of their group.

    Args:
        z: [N, D] this process's rows.
        z_all: [W N, D] the rows of all processes in the order of ranks, including `z`.
        group: [W N] int64 in [0, W N).
        positives: [W N] int64, the number of other rows in each row's group.
        temperature: above 0.
        decoupled: whether the positives leave the denominator.

    Returns:
        Scalar.
    """
    return _MeanCrossEntropy.apply(z, z_all, group, positives, temperature, decoupled)


class _MeanCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, z_all: Tensor, group: Tensor, positives: Tensor, temperature: float, decoupled: bool
    ) -> Tensor:
        local = slice(rank() * len(z), (rank() + 1) * len(z))
        local_group = group[local]
        local_positives = positives[local, None]
        counts = local_positives > 0
        if decoupled:
            counts = counts & (local_positives < len(z_all) - 1)
        weight = counts.to(z.dtype) / len(z)  # [N, 1]
        scaled = z / temperature
        pull = weight / local_positives.clamp(min=1) / temperature  # of each positive
        positive_sum = _group_sums(z_all, group)[local_group] - z
        pulling = pull * z
        loss = -(pulling * positive_sum).sum()
        grad_z = pull * (z - positive_sum)
        grad_all = -_group_sums(pulling, local_group, len(group))[group]
        rows = max(1, min(len(z), BLOCK[z.device.type] // len(z_all)))
        buffer = z.new_empty(rows, len(z_all))
        lowest = torch.finfo(z.dtype).min
        for begin in range(0, len(z), rows):
            block = slice(begin, min(begin + rows, len(z)))
            exponential = torch.mm(scaled[block], z_all.T, out=buffer[: block.stop - begin])
            if decoupled:
                exponential.masked_fill_(local_group[block, None] == group, lowest)
            else:
                exponential[:, local.start + begin :].diagonal().fill_(lowest)  # each row with itself
            largest = exponential.amax(dim=1, keepdim=True)
            sums = exponential.sub_(largest).exp_().sum(dim=1, keepdim=True)
            loss += (weight[block] * (sums.log() + largest)).sum()
            softmax_weight = weight[block] / sums
            grad_z[block].addcmul_(exponential @ z_all, softmax_weight, value=1 / temperature)
            grad_all.addmm_(exponential.T, scaled[block] * softmax_weight)
        ctx.save_for_backward(grad_z, grad_all)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_z, grad_all = ctx.saved_tensors
        return gradients[0] * grad_z, gradients[0] * grad_all, None, None, None, None


def _group_sums(rows: Tensor, group: Tensor, groups: int | None = None) -> Tensor:
    """[groups, D] the sum of the rows of each group; by default as many groups as rows."""
    return rows.new_zeros(groups or len(rows), rows.shape[1]).index_add_(0, group, rows)
