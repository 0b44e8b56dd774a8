"""`--dry_run`: what a training will cost, from a few real steps. Nothing is trained: the network is thrown away."""

import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cl.batch import Batch
from cl.cli import Resolved
from cl.data.datamodule import ImageData
from cl.errors import UserError
from cl.evaluation.features import evaluating
from cl.evaluation.pictures.views_picture import save_views
from cl.run.start.banner import row_lines
from cl.run.start.batch_search import largest_batch
from cl.run.start.memory import Peak
from cl.run.start.network import TrainedModule, prepare_network
from cl.run.start.plan import Plan

MEASURED = 3  # steps after the first one
PATIENCE = 60  # seconds after which no further step is started
HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def dry_run(resolved: Resolved[Any], plan: Plan, module: TrainedModule, data: ImageData, folder: Path) -> str:
    """Size, FLOPs, memory and time of a training, or the batch that fits; the views of the real loader in `folder`."""
    config = resolved.config
    device = plan.devices.device(0)
    side = data.settings.views[0][0].size
    flops = flops_of(module.backbone, torch.zeros(1, config.data.in_channels, side, side))
    rows = {
        "parameters": ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in parameters_of(module).items()),
        "FLOPs": f"{flops / 1e9:.3g} billion for an image of {side} x {side} pixels (backbone, forward, a multiply-add "
        "is two)",
    }
    prepare_network(module.to(device), config.device, plan.devices)
    step = Step(module, config.device.precision)
    batches = endless(data)
    if resolved.auto_batch:
        batch = next(batches)
        together = data.settings.batches_per_loss
        most = len(data.splits.train) // (plan.devices.processes * data.settings.accumulate)
        said = largest_batch(lambda images: step(of_size(batch, images * together)), most, device)
    else:
        batch, said, found = measure(step, batches, plan)
        rows |= found
    save_views(batch, data.splits.train, data.splits.norm, folder / "views.png")
    lines = [line for name, text in rows.items() for line in row_lines(name, text)]
    return "\n".join([*lines, said, f"the views are in {folder / 'views.png'}; nothing was trained"])


def parameters_of(module: nn.Module) -> dict[str, int]:
    """How many each part has."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    return {name: count for name, count in counts.items() if count}


def flops_of(backbone: nn.Module, images: Tensor) -> int:
    """Of a forward pass in evaluation mode; each multiply-add of a convolution or a matrix product counts as two."""
    with evaluating(backbone), FlopCounterMode(display=False) as counter:
        backbone(images)
    return int(counter.get_total_flops())


def endless(data: ImageData) -> Iterator[Batch]:
    """Training batches, epoch after epoch."""
    loader = data.train_dataloader()
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def of_size(batch: Batch, images: int) -> Batch:
    """So many images with the views of `batch`, over and over."""
    rows = torch.arange(images) % len(batch.index)
    return Batch(torch.arange(images), tuple(views[:, rows] for views in batch.views), batch.target[rows])


class Step:
    """What the trainer does with a batch: forward, backward, optimizer."""

    def __init__(self, module: TrainedModule, precision: str) -> None:
        self.module = module
        self.device = module.device
        self.half = HALF.get(precision)
        self.optimizer = module.configure_optimizers()["optimizer"]

    def __call__(self, batch: Batch) -> Tensor:
        """The loss; it is there when this returns."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            loss = self.module.training_step(batch.to(self.device), 0)
        loss.backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return loss.detach()

    def gradient_norm(self) -> float:
        gradients = (p.grad for p in self.module.parameters())
        return sum(float(gradient.norm()) ** 2 for gradient in gradients if gradient is not None) ** 0.5


def measure(step: Step, batches: Iterator[Batch], plan: Plan) -> tuple[Batch, str, dict[str, str]]:
    """The first batch, its loss and gradient in words, and what some steps took."""
    both = " with the online head's" if "online_head" in dict(step.module.named_children()) else ""
    peak = Peak(step.device)
    began = time.perf_counter()
    batch = next(batches)
    try:
        said = f"one step: loss {step(batch):.3f}{both}, gradient norm {step.gradient_norm():.3f}"
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch_size: got {len(batch.index)}, more than fits into the memory of the GPU, expected less: "
            "--batch_size auto --dry_run says how much"
        ) from None
    first = time.perf_counter()
    times = [first - began]
    waits = [0.0]
    while len(times) <= MEASURED and time.perf_counter() - began < PATIENCE:
        asked = time.perf_counter()
        another = next(batches)
        waits.append(time.perf_counter() - asked)
        step(another)
        times.append(time.perf_counter() - asked)
    if len(times) > 1:  # the first one warms up
        times = times[1:]
        waits = waits[1:]
    seconds = statistics.median(times) * plan.losses_per_step
    budget = plan.budget
    epoch, whole = (format_duration(seconds * steps) for steps in (budget.steps_per_epoch, budget.steps))
    alone = f" of one process of {plan.devices.processes}" if plan.devices.processes > 1 else ""
    took = {
        "memory": str(peak),
        "time": f"{format_duration(seconds)} a step{alone} (median of {len(times)}), "
        f"{sum(waits) / sum(times):.0%} of it waiting for data; {epoch} an epoch, {whole} for all {budget.steps} "
        "steps, evaluation not counted",
    }
    return batch, said, took


def format_duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
