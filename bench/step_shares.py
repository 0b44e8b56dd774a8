"""The shares of a training step spent on its data and on its loss, for this toolkit and for lightly's loop.

Measured in one process without workers, so that all work is part of the step.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from watched import DEVICE, GPU

from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.sampler import RankSlice
from cl.data.settings import LoaderSettings
from cl.data.sources.registry import load
from cl.data.views.spec import pretrain_views
from cl.losses import barlow_twins_loss, negative_cosine_similarity, nt_xent_loss
from cl.methods import build_method
from cl.optim.schedules import Budget
from cl.run.start.devices import on_devices
from cl.run.start.dry_run import Step, endless
from cl.run.start.network import prepare_network, replay_networks

WARM_UP = 1  # steps that are not timed
DIMENSIONS = {"simclr": 128, "supcon": 128, "barlow_twins": 2048, "simsiam": 2048}  # of both toolkits' projections


class Shares(NamedTuple):
    """Shares of the time from one batch to the next."""

    data: float
    loss: float  # forward and backward; nan where it is not a function of two projections alone


UNKNOWN = Shares(nan, nan)


def set_up(flags: list[str]) -> tuple[ImageData, Step]:
    """The images and the training step of main_contrastive with these flags."""
    resolved, devices = on_devices(parse(Pretrain, flags))
    config = resolved.config
    settings = LoaderSettings(
        config.data, pretrain_views(config.views), seed=config.run.seed, rank_slice=RankSlice(0, 1), device=DEVICE
    )
    data = ImageData(load(config.data), settings)
    budget = Budget.of(config.run, data.global_batch, data.steps_per_epoch)
    module = build_method(config, len(data.splits.classes), budget).to(DEVICE)
    prepare_network(module, config.device, devices, config.data.batch_size)
    replay_networks(module, config, devices, settings)
    return data, Step(module, config.device.precision)


def ours(flags: list[str], steps: int) -> Shares:
    data, step = set_up(flags)
    loss = our_loss(step.module.method.method, data.settings.data.batch_size)
    shares = measure_shares(endless(data), step, loss, steps)
    data.teardown("fit")
    return shares


def lightlys(method: str, train_dir: Path, width: int, batch_size: int, steps: int) -> Shares:
    import lightly_loop  # not above: bench/step.py does without lightly

    model = lightly_loop.model_of(method, width).to(DEVICE)
    optimizer = lightly_loop.optimizer_of(method, model, batch_size)
    loader = lightly_loop.batches(train_dir, batch_size, workers=0)

    def step(batch: Any) -> Tensor:
        return lightly_loop.step(model, optimizer, batch, DEVICE)

    endless_batches = (batch for _ in count() for batch in loader)
    return measure_shares(endless_batches, step, lightlys_loss(method, model.criterion, batch_size), steps)


def our_loss(method: str, batch: int) -> Callable[[], Tensor] | None:
    """The method's loss on random projections of the size that they have in a step; None if it needs more."""
    if method not in DIMENSIONS:
        return None
    z0, z1 = projections(method, batch)
    if method == "barlow_twins":
        return lambda: barlow_twins_loss(z0, z1, 5e-3, 1.0)
    if method == "simsiam":
        return lambda: (negative_cosine_similarity(z0, z1) + negative_cosine_similarity(z1, z0)) / 2
    ids = torch.arange(batch, device=DEVICE) % (10 if method == "supcon" else batch)
    return lambda: nt_xent_loss(torch.cat([z0, z1]), ids.repeat(2), 0.2)


def lightlys_loss(method: str, criterion: Any, batch: int) -> Callable[[], Tensor] | None:
    if method not in DIMENSIONS:
        return None
    z0, z1 = projections(method, batch)
    if method == "simsiam":
        return lambda: 0.5 * (criterion(z0.detach(), z1) + criterion(z1.detach(), z0))
    return lambda: criterion(z0, z1)


def projections(method: str, batch: int) -> tuple[Tensor, Tensor]:
    """Random projections of two views, [B, D] each."""
    z0, z1 = (torch.randn(batch, DIMENSIONS[method], device=DEVICE).requires_grad_() for _ in range(2))
    return z0, z1


def measure_shares(
    batches: Iterator[Any], step: Callable[[Any], Any], loss: Callable[[], Tensor] | None, steps: int
) -> Shares:
    """Shares from the median times of `steps` steps."""
    fetch_times = []
    step_times = []
    loss_times = []
    for _ in range(WARM_UP + steps):
        began = now()
        batch = next(batches)
        fetched = now()
        step(batch)
        stepped = now()
        if loss:
            loss().backward()
        fetch_times.append(fetched - began)
        step_times.append(stepped - fetched)
        loss_times.append(now() - stepped)
    fetch_time, step_time, loss_time = (
        statistics.median(times[WARM_UP:]) for times in (fetch_times, step_times, loss_times)
    )
    total = fetch_time + step_time
    return Shares(data=fetch_time / total, loss=loss_time / total if loss else nan)


def now() -> float:
    """The time at which all work launched so far is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()
