"""Optimizers and schedules, in the form that Lightning's `configure_optimizers` returns."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from cl.config.optim import OptimConfig, PretrainOptimConfig
from cl.optim.groups import Group, lars_groups, torch_groups, without_decay_of_vectors
from cl.optim.schedules import Schedule


def build_optimizer(config: OptimConfig, groups: Sequence[Group], scaled_gradients: bool = False) -> Optimizer:
    """Build the optimizer that the flags name; `scaled_gradients` under a GradScaler.

    On a GPU a step is a few kernels, and all of its state lies there, so that it can be undone there. Fused optimizers
    take scaled gradients, which hooks before the step would see; CPUs keep the plain ones, whose bits differ.
    """
    on_gpu = _on_gpu(groups)
    fused = True if on_gpu and not scaled_gradients else None
    if isinstance(config, PretrainOptimConfig) and not config.decay_biases_and_norms:
        groups = without_decay_of_vectors(groups)
    if isinstance(config, PretrainOptimConfig) and config.lars:
        from timm.optim.lars import Lars

        return Lars(
            lars_groups(groups),
            momentum=config.momentum,
            trust_coeff=config.lars_eta,
            trust_clip=config.lars_clip,
        )
    if config.optimizer == "sgd":
        return torch.optim.SGD(torch_groups(groups), momentum=config.momentum, fused=fused)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(torch_groups(groups), fused=fused, capturable=on_gpu and scaled_gradients)


def _on_gpu(groups: Sequence[Group]) -> bool:
    return groups[0].parameters[0].is_cuda


def with_schedule(optimizer: Optimizer, schedule: Schedule) -> dict[str, Any]:
    """Optimizer and schedule for Lightning; a group that is not `scheduled` keeps its learning rate."""
    groups = optimizer.param_groups
    if schedule.kind == "reduce":
        # The only schedule with state: `MeasureEpoch` steps it after each epoch, before the checkpoint is written.
        floors = [group["lr"] * (schedule.floor if group["scheduled"] else 1.0) for group in groups]
        plateau = ReduceLROnPlateau(optimizer, factor=schedule.decay_rate, min_lr=floors)
        config = {"scheduler": plateau, "monitor": "loss", "strict": False}  # Lightning never sees the loss
        return {"optimizer": optimizer, "lr_scheduler": config}
    factors = [_factor(schedule) if group["scheduled"] else _constant for group in groups]
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}}


def _factor(schedule: Schedule) -> Callable[[int], float]:
    """`schedule` as a plain function: LambdaLR saves the fields of any other callable, hence the horizon."""

    def factor(step: int) -> float:
        return schedule(step)

    return factor


def _constant(step: int) -> float:
    return 1.0
