"""The methods: each has heads and a training step; the base does everything else."""

import importlib
from typing import Any

from cl.backbones.loading import load_init_from
from cl.config.programs import Pretrain
from cl.methods.base import ContrastiveModule, StepOutput
from cl.optim.schedules import Budget

__all__ = ["ContrastiveModule", "StepOutput", "build_method", "load_initial_weights"]


def build_method(config: Pretrain, classes: int, budget: Budget) -> ContrastiveModule[Any]:
    """Build the method that the flags name; its module is imported here."""
    module, name = config.method.implementation.split(":")
    method: type[ContrastiveModule[Any]] = vars(importlib.import_module(module))[name]
    return method(config, classes, budget)


def load_initial_weights(method: ContrastiveModule[Any], config: Pretrain) -> str:
    """Load the weights of --init_from into the backbone and describe them; "" without the flag."""
    if not config.backbone.init_from:
        return ""
    return load_init_from(method.backbone, config.backbone, config.views.crop_size, config.data.in_channels)
