"""How much of a training step is spent on fetching its views and on its loss, here and in lightly's loop.

One process without workers, so that all of the work is part of the step.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import lightly_loop
import torch
from torch import Tensor
from watched import DEVICE, GPU

from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData, LoaderSettings
from cl.data.sampler import RankSlice
from cl.data.sources.registry import load
from cl.data.views.spec import pretrain_views
from cl.losses import barlow_twins_loss, negative_cosine_similarity, nt_xent_loss
from cl.methods import build_method
from cl.optim.schedules import Budget
from cl.run.start.devices import Devices
from cl.run.start.dry_run import Step, endless
from cl.run.start.network import prepare_network

WARM_UP = 1  # step, which does not count
DIMENSIONS = {
    "simclr": 128,
    "supcon": 128,
    "barlow_twins": 2048,
    "simsiam": 2048,
}  # of the projections of both toolkits


class Shares(NamedTuple):
    """Of the time from one batch to the next."""

    data: float
    loss: float  # forward and backward


def set_up(flags: list[str]) -> tuple[ImageData, Step]:
    """The images and the training step of the run that main_contrastive makes of these flags."""
    config = parse(Pretrain, flags).config
    feed = LoaderSettings(config.data, pretrain_views(config.views), config.run.seed, RankSlice(0, 1), DEVICE)
    data = ImageData(load(config.data), feed)
    budget = Budget.of(config.run, data.global_batch, data.steps_per_epoch)
    module = build_method(config, len(data.splits.classes), budget).to(DEVICE)
    prepare_network(module, config.device, Devices("gpu" if GPU else "cpu", 1))
    return data, Step(module, config.device.precision)


def ours(flags: list[str], steps: int) -> Shares:
    data, step = set_up(flags)
    found = measured(endless(data), step, our_loss(step.module.method.method, data.settings.data.batch_size), steps)
    data.teardown("fit")
    return found


def lightlys(method: str, train_dir: Path, width: int, batch_size: int, steps: int) -> Shares:
    model = lightly_loop.model_of(method, width).to(DEVICE)
    optimizer = lightly_loop.optimizer_of(method, model, batch_size)
    loader = lightly_loop.batches(train_dir, batch_size, workers=0)
    step = lambda batch: lightly_loop.step(model, optimizer, batch, DEVICE)  # noqa: E731
    endless_batches = (batch for _ in count() for batch in loader)
    return measured(endless_batches, step, lightlys_loss(method, model.criterion, batch_size), steps)


def our_loss(method: str, batch: int) -> Callable[[], Tensor]:
    """As the method computes it in a step, of projections of the size that they have there."""
    z0, z1 = projections(method, batch)
    if method == "barlow_twins":
        return lambda: barlow_twins_loss(z0, z1, 5e-3, 1.0)
    if method == "simsiam":
        return lambda: (negative_cosine_similarity(z0, z1) + negative_cosine_similarity(z1, z0)) / 2
    ids = torch.arange(batch, device=DEVICE) % (10 if method == "supcon" else batch)
    return lambda: nt_xent_loss(torch.cat([z0, z1]), ids.repeat(2), 0.2)


def lightlys_loss(method: str, criterion: Any, batch: int) -> Callable[[], Tensor]:
    z0, z1 = projections(method, batch)
    if method == "simsiam":
        return lambda: 0.5 * (criterion(z0.detach(), z1) + criterion(z1.detach(), z0))
    return lambda: criterion(z0, z1)


def projections(method: str, batch: int) -> tuple[Tensor, Tensor]:
    """Of two views, [B, D] each."""
    z0, z1 = (torch.randn(batch, DIMENSIONS[method], device=DEVICE).requires_grad_() for _ in range(2))
    return z0, z1


def measured(batches: Iterator[Any], step: Callable[[Any], Any], loss: Callable[[], Tensor], steps: int) -> Shares:
    """Medians of so many steps."""
    fetching = []
    stepping = []
    losing = []
    for _ in range(WARM_UP + steps):
        began = now()
        batch = next(batches)
        fetched = now()
        step(batch)
        stepped = now()
        loss().backward()
        fetching.append(fetched - began)
        stepping.append(stepped - fetched)
        losing.append(now() - stepped)
    fetch, compute, both = (statistics.median(each[WARM_UP:]) for each in (fetching, stepping, losing))
    return Shares(fetch / (fetch + compute), both / (fetch + compute))


def now() -> float:
    """When all that was begun is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()
