"""Find out which networks a method calls in a step, and capture these calls."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cl.batch import Batch
from cl.methods.base import ContrastiveModule
from cl.nn.replays import Call, Capture, Replays, record


def captured(
    method: ContrastiveModule[Any], batch: Batch, capture: Capture, half: torch.dtype | None, copies: bool
) -> Replays:
    """Replays of the calls that `method` makes in a step on batches like this one, under autocast to `half`.

    Leaves weights, buffers and generators as they were.
    """
    device = batch.index.device
    networks = dict(networks_of(method))
    buffers = [(buffer, buffer.clone()) for buffer in method.buffers()]
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with generators, torch.autocast(device.type, half, enabled=half is not None, cache_enabled=False):
        calls = rehearse(method, batch)
        replays = Replays(calls, capture(networks, calls), copies)
    for buffer, value in buffers:
        buffer.copy_(value)
    replays.install(networks)
    return replays


def rehearse(method: ContrastiveModule[Any], batch: Batch) -> list[Call]:
    """The calls of a step, by a copy of the method: a step may leave keys for a queue, and the like."""
    rehearsing = copy.deepcopy(method)
    return record(dict(networks_of(rehearsing)), lambda: rehearsing.step(batch))


def networks_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that can be called and have parameters, by name, those of a teacher too.

    The online head stays out: it is small, and labels decide what it is called with.
    """
    for name, child in module.named_children():
        if type(child).forward is nn.Module.forward:  # a container, such as a teacher
            yield from networks_of(child, f"{prefix}{name}.")
        elif name != "online_head" and any(True for _ in child.parameters()):
            yield prefix + name, child
