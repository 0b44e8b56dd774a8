"""log-sum-exp of similarities, a block of rows at a time: nothing of size N^2 is ever kept."""

from typing import Any

import torch
from torch import Tensor

from cl.distributed import rank

BLOCK = 2**22  # similarities at a time: 16 MB in float32, which a cache holds better than more


def mean_log_sum_exp(z: Tensor, others: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """sum_i weight_i log sum_{j != i} exp(<z_i, others_j> / temperature), differentiable in `z` and `others`.

    Loss and gradient come from one pass: the exponentials of a block enter both gradients while they are there.

    Args:
        z: [N, D] this process's rows.
        others: [W N, D] the rows of all processes in the order of ranks, `z` among them; a row is no other of itself.
        weight: [N], without a gradient.
        temperature: above 0.

    Returns:
        Scalar.
    """
    return _MeanLogSumExp.apply(z, others, weight, temperature)


class _MeanLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, others: Tensor, weight: Tensor, temperature: float) -> Tensor:
        scaled, total = z / temperature, z.new_zeros(())
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_z, grad_others = (torch.zeros_like(each) if wanted else each for each in (scaled, others))
        rows = max(1, min(len(z), BLOCK // len(others)))
        buffer = z.new_empty(rows, len(others))
        for begin in range(0, len(z), rows):
            block = slice(begin, min(begin + rows, len(z)))
            exponential = torch.mm(scaled[block], others.T, out=buffer[: block.stop - begin])
            itself = exponential[:, rank() * len(z) + begin :].diagonal()
            itself.fill_(torch.finfo(z.dtype).min)
            largest = exponential.amax(dim=1, keepdim=True)
            sums = exponential.sub_(largest).exp_().sum(dim=1, keepdim=True)
            total += (weight[block] * (sums.log() + largest).squeeze(1)).sum()
            if wanted:
                share = weight[block, None] / sums
                torch.mm(exponential, others, out=grad_z[block])
                grad_z[block] *= share / temperature
                grad_others.addmm_(exponential.T, scaled[block] * share)
        ctx.save_for_backward(grad_z, grad_others)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_z, grad_others = ctx.saved_tensors
        return gradients[0] * grad_z, gradients[0] * grad_others, None, None
