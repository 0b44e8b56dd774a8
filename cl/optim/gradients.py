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
