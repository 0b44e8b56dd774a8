"""Optimizers with their schedules, as Lightning's `configure_optimizers` wants them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cl.config.optim import OptimConfig
from cl.optim.schedules import Schedule


def optimizer_of(config: OptimConfig, groups: Iterable[dict[str, Any]], global_batch: int) -> Optimizer:
    """The optimizer that the flags name; a group's own `lr` or `weight_decay` wins over the flags'."""
    lr, decay = config.scaled_lr(global_batch), config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=decay)


def with_schedule(optimizer: Optimizer, schedule: Schedule) -> dict[str, Any]:
    """Optimizer and schedule for Lightning, the schedule stepped with the optimizer."""
    # A plain function: of another callable LambdaLR saves the fields, and a resumed run gets the old horizon.
    scheduler = LambdaLR(optimizer, lambda step: schedule(step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
