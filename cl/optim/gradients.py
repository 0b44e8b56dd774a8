"""What happens to gradients between the backward pass and the optimizer's step, all of it on the device."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


def freeze_gradients(optimizer: Optimizer, step: int) -> None:
    """Drop the gradients of groups that are frozen until a later optimizer step.

    A parameter without a gradient is skipped by the optimizer: no weight decay, no momentum. A gradient of zero is not.
    """
    for group in optimizer.param_groups:
        if step < group["frozen_steps"]:
            for parameter in group["params"]:
                parameter.grad = None


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale the gradients so that their global norm is at most `max_norm`; a norm that is not finite spreads to all."""
    torch.nn.utils.clip_grad_norm_(list(parameters), max_norm)


def clip_each_gradient(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale each gradient so that its own norm is at most `max_norm` (DINO's code, which adds 1e-6 to the norm)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    factors = max_norm / (torch.stack(torch._foreach_norm(gradients)) + 1e-6)
    torch._foreach_mul_(gradients, list(factors.clamp(max=1.0).unbind()))
