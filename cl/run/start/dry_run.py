"""`--dry_run`: measure the cost of a training with a few real steps, then discard the network."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cl.batch import Batch
from cl.cli import Resolved
from cl.config.views import sides
from cl.data.datamodule import ImageData
from cl.data.executors.resident_images import free_memory
from cl.data.settings import HALF_DTYPES
from cl.errors import NOT_FINITE, Stopped, UserError, format_bytes, one_line
from cl.evaluation.features import evaluating
from cl.evaluation.pictures.drawing import draw
from cl.evaluation.pictures.views_picture import save_views
from cl.methods import ContrastiveModule
from cl.run.start.banner import row_lines
from cl.run.start.batch_search import largest_batch
from cl.run.start.memory import Peak
from cl.run.start.network import TrainedModule, prepare_network, replay_networks
from cl.run.start.plan import Plan
from cl.run.train.step_gaps import synchronize

MEASURED_STEPS = 3  # after the first one
TIME_LIMIT = 60  # seconds after which no further step is started


def dry_run(resolved: Resolved[Any], plan: Plan, module: TrainedModule, data: ImageData, folder: Path) -> str:
    """Report size, FLOPs, memory and time, or the largest batch that fits, and save views of the first batch."""
    config = resolved.config
    device = plan.devices.device(0)
    height, width = sides(data.settings.views[0][0].size)
    flops = count_flops(module.backbone, torch.zeros(1, config.data.in_channels, height, width))
    rows = {
        "parameters": ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in count_parameters(module).items()),
        "FLOPs": f"{flops / 1e9:.3g} billion per image of {height} x {width} pixels (backbone, forward, a multiply-add "
        "counts as two)",
    }
    if sizes := state_sizes(module):
        rows["state"] = (
            ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items()) + ", in checkpoints too"
        )
    prepare_network(module.to(device).train(), config.device, plan.devices, config.data.batch_size)
    if isinstance(module, ContrastiveModule):
        module.step_index = module.frozen_backbone_steps  # a step in which everything learns
    if isinstance(module, ContrastiveModule) and not resolved.auto_batch:  # which tries batches of other sizes
        rows |= replay_networks(module, config, plan.devices, data.settings)
    step = Step(module, config.device.precision)
    batches = endless(data)
    if resolved.auto_batch:
        batch = next(batches)
        batches_per_loss = data.settings.batches_per_loss
        max_images = len(data.splits.train) // (plan.devices.processes * data.settings.accumulate)
        result = largest_batch(lambda images: step(resized(batch, images * batches_per_loss)), max_images, device)
    else:
        batch, result, cost = measure(step, batches, plan)
        rows |= cost | _resident_row(data, device)
    picture = folder / "views.png"
    drawn = draw(picture, lambda: save_views(batch, data.splits.train, data.splits.norm, picture))
    lines = [line for name, text in rows.items() for line in row_lines(name, text)]
    views = f"the views are in {one_line(str(picture))}; " if drawn else ""
    return "\n".join([*lines, result, f"{views}nothing was trained"])


def count_parameters(module: nn.Module) -> dict[str, int]:
    """The number of parameters of each child module that has any."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    return {name: count for name, count in counts.items() if count}


def state_sizes(module: nn.Module) -> dict[str, int]:
    """Bytes of each child module that no gradient trains: a teacher, a queue."""
    sizes = {}
    for name, part in module.named_children():
        tensors = [*part.parameters(), *part.buffers()]
        if tensors and not any(tensor.requires_grad for tensor in tensors):
            sizes[name] = sum(tensor.nbytes for tensor in tensors)
    return sizes


def count_flops(backbone: nn.Module, images: Tensor) -> int:
    """FLOPs of a forward pass in evaluation mode: two per multiply-add of convolutions and matrix products."""
    with evaluating(backbone), FlopCounterMode(display=False) as counter:
        backbone(images)
    return int(counter.get_total_flops())


def endless(data: ImageData) -> Iterator[Batch]:
    """Training batches of one epoch after another."""
    loader = data.train_dataloader()
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def resized(batch: Batch, images: int) -> Batch:
    """A batch of that many images, which repeats the views of `batch`."""
    rows = torch.arange(images) % len(batch.index)
    return Batch(torch.arange(images), tuple(views[:, rows] for views in batch.views), batch.target[rows])


class Step:
    """One training step as the trainer does it: forward, backward, optimizer."""

    def __init__(self, module: TrainedModule, precision: str) -> None:
        self.module = module
        self.device = module.device
        self.half_dtype = HALF_DTYPES.get(precision)
        self.optimizer = module.configure_optimizers()["optimizer"]

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss, after the device has finished the step."""
        loss = self.launch(batch)
        synchronize(self.device)
        return loss

    def launch(self, batch: Batch) -> Tensor:
        """Return the loss, which a GPU may still be computing."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.half_dtype, enabled=self.half_dtype is not None):
            loss = self.module.training_step(batch.to(self.device), 0)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradient_norm(self) -> float:
        gradients = (p.grad for p in self.module.parameters())
        return sum(float(gradient.norm()) ** 2 for gradient in gradients if gradient is not None) ** 0.5


def measure(step: Step, batches: Iterator[Batch], plan: Plan) -> tuple[Batch, str, dict[str, str]]:
    """The first batch, a line about its loss and gradient, and rows with the memory and time of a step."""
    peak = Peak(step.device)
    start = time.perf_counter()
    batch = next(batches)
    first_step = _first_step(step, batch)
    times = [time.perf_counter() - start]
    waits = [0.0]
    while len(times) <= MEASURED_STEPS and time.perf_counter() - start < TIME_LIMIT:
        step_start = time.perf_counter()
        next_batch = next(batches)
        waits.append(time.perf_counter() - step_start)
        step(next_batch)
        times.append(time.perf_counter() - step_start)
    if len(times) > 1:  # the first step is warm-up
        times = times[1:]
        waits = waits[1:]
    return batch, first_step, {"memory": str(peak), "time": _time_row(times, waits, plan)}


def _first_step(step: Step, batch: Batch) -> str:
    has_online_head = "online_head" in dict(step.module.named_children())
    try:
        loss = float(step(batch))
        norm = step.gradient_norm()
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch_size: got {len(batch.index)}, which does not fit into GPU memory, expected a smaller one: "
            "--batch_size auto --dry_run finds the largest"
        ) from None
    if not math.isfinite(loss + norm):
        raise Stopped(f"the first step is not finite: loss {loss:g}, gradient norm {norm:g}", NOT_FINITE)
    return f"one step: loss {loss:.3f}{' including the online head' * has_online_head}, gradient norm {norm:.3f}"


def _resident_row(data: ImageData, device: torch.device) -> dict[str, str]:
    """What images that stay on the device take and leave there."""
    if not data.bytes_on_device:
        return {}
    taken = f"{format_bytes(data.bytes_on_device)} on the {'GPU' if device.type == 'cuda' else 'CPU'}"
    if device.type == "cuda":
        free = free_memory(device) + torch.cuda.memory_reserved(device) - torch.cuda.max_memory_allocated(device)
        taken += f", part of the memory above; {format_bytes(free)} are left"
    return {"resident": taken}


def _time_row(times: Sequence[float], waits: Sequence[float], plan: Plan) -> str:
    seconds = statistics.median(times) * plan.losses_per_step
    budget = plan.budget
    epoch = format_duration(seconds * budget.steps_per_epoch)
    training = format_duration(seconds * budget.steps)
    process = f" of one process of {plan.devices.processes}" if plan.devices.processes > 1 else ""
    return (
        f"{format_duration(seconds)} a step{process} (median of {len(times)}), {sum(waits) / sum(times):.0%} of it "
        f"waiting for data; {epoch} an epoch, {training} for all {budget.steps} steps, evaluation not counted"
    )


def format_duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
