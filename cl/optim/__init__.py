"""Optimizers with their schedules, as Lightning's `configure_optimizers` wants them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from cl.config.optim import OptimConfig, PretrainOptimConfig
from cl.optim.groups import Group, lars_groups, torch_groups
from cl.optim.schedules import Schedule


def build_optimizer(config: OptimConfig, groups: Sequence[Group]) -> Optimizer:
    """The optimizer that the flags name."""
    if isinstance(config, PretrainOptimConfig) and config.lars:
        from timm.optim.lars import Lars

        eta = config.lars_eta
        clip = config.lars_clip
        return Lars(lars_groups(groups), momentum=config.momentum, trust_coeff=eta, trust_clip=clip)
    if config.optimizer == "sgd":
        return torch.optim.SGD(torch_groups(groups), momentum=config.momentum)
    if config.optimizer == "adam":
        return torch.optim.Adam(torch_groups(groups))
    return torch.optim.AdamW(torch_groups(groups))


def with_schedule(optimizer: Optimizer, schedule: Schedule) -> dict[str, Any]:
    """Optimizer and schedule for Lightning; a group that is not `scheduled` keeps its rate."""
    groups = optimizer.param_groups
    if schedule.kind == "reduce":
        # The one schedule with a state: `MeasuredModule` steps it after each epoch, before the checkpoint is written.
        floors = [group["lr"] * (schedule.floor if group["scheduled"] else 1.0) for group in groups]
        plateau = ReduceLROnPlateau(optimizer, factor=schedule.decay_rate, min_lr=floors)
        config = {"scheduler": plateau, "monitor": "loss", "strict": False}  # Lightning never sees the loss
        return {"optimizer": optimizer, "lr_scheduler": config}
    # Plain functions: of another callable LambdaLR saves the fields, and a resumed run gets the old horizon.
    factors = [(lambda step: schedule(step)) if group["scheduled"] else (lambda step: 1.0) for group in groups]
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}}
