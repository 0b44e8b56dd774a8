"""The methods: each has heads and a training step; the base does everything else."""

import importlib
from typing import Any

from cl.config.programs import Pretrain
from cl.methods.base import ContrastiveModule, StepOutput
from cl.optim.schedules import Budget

__all__ = ["ContrastiveModule", "StepOutput", "build_method"]


def build_method(config: Pretrain, classes: int, budget: Budget) -> ContrastiveModule[Any]:
    """Build the method that the flags name; its module is imported here."""
    module, name = config.method.implementation.split(":")
    method: type[ContrastiveModule[Any]] = vars(importlib.import_module(module))[name]
    return method(config, classes, budget).train()  # which sets the batch norms of a frozen backbone
