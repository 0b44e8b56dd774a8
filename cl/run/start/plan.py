"""What a run will do, told before it does it: the banner and its warnings."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cl
from cl.cli import Resolved
from cl.config.backbone import RESNETS_ONLY
from cl.config.flags import fields_of, shown
from cl.config.methods import SimCLRConfig
from cl.config.optim import OptimConfig
from cl.config.programs import Linear, Pretrain
from cl.data.datamodule import ImageData
from cl.data.views.spec import Norm
from cl.optim.schedules import Budget, Schedule
from cl.run.folder.resume_point import Start
from cl.run.folder.run_folder import plain_values
from cl.run.start.devices import Devices

WIDTH, NAMES = 110, 20  # columns of the banner, and of its names
NEEDS = {  # flags that do nothing unless another one is on
    "lars_eta": "lars", "lars_clip": "lars",
    "n_small_crops": "multicrop", "small_crop_size": "multicrop", "small_scale": "multicrop",
    "backbone_lr_factor": "finetune",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The numbers that follow from flags, data and devices."""

    title: str
    train_images: int
    labelled: int  # of the training images
    bank: int  # of those, what kNN looks at
    val_images: int
    classes: int
    norm: Norm
    notes: tuple[str, ...]  # about the images
    budget: Budget
    warmup: int
    devices: Devices
    accumulate: int  # losses per optimizer step
    loader: str  # how images reach the device

    @classmethod
    def of(cls, title: str, config: Pretrain | Linear, data: ImageData, devices: Devices) -> "Plan":
        budget, splits = Budget.of(config.run, data.global_batch, data.steps_per_epoch), data.splits
        labelled = int((splits.train.targets >= 0).sum())
        wanted = config.online.knn_bank if isinstance(config, Pretrain) else 0
        bank = min(config.data.batch_size if config.run.fast_dev_run else wanted or labelled, labelled)
        counts = len(splits.train), labelled, bank, len(splits.val or ()), len(splits.classes)
        schedule, apart = Schedule.of(config.optim.pairs[0], budget), data.settings.accumulate // data.settings.together
        return cls(title, *counts, splits.norm, splits.notes, budget, schedule.warmup, devices, apart, str(data))


def banner(resolved: Resolved[Any], plan: Plan, start: Start, weights: str = "") -> str:
    """Everything that one should have seen before a long run; `weights`: what the backbone starts from."""
    optim = resolved.config.optim
    processes = "1 process" if plan.devices.processes == 1 else f"{plan.devices.processes} processes"
    batch, warmup = plan.budget.global_batch, f", {plan.warmup} steps of warm-up" * bool(plan.warmup)
    accumulated = batch // (resolved.config.data.batch_size * plan.devices.processes)
    processes += f" x {accumulated} accumulated" * (accumulated > 1)
    rows = {
        "images": f"{plan.train_images} for training, {plan.val_images or 'none'} for validation, "
        + (f"{plan.classes} classes" if plan.classes else "no labels"),
        "normalised by": "mean " + " ".join(map(str, plan.norm[0])) + ", std " + " ".join(map(str, plan.norm[1])),
        "batch": f"{resolved.config.data.batch_size} x {processes} = {batch} images a step",
        "steps": f"{plan.budget.steps_per_epoch} an epoch, {plan.budget.steps} in all",
        "learning rate": f"{_rates(optim.pairs, batch)} ({optim.optimizer}, {optim.scheduler}{warmup})",
        "device": str(plan.devices),
        "loader": plan.loader,
        "run folder": str(start.folder),
    }
    if start.checkpoint:
        rows["goes on"] = f"from {start.checkpoint.name}, after {start.step} of {plan.budget.steps} steps"
    if weights:
        rows["weights"] = weights
    if isinstance(resolved.config, Pretrain) and isinstance(resolved.config.method, SimCLRConfig):
        rows["anchors"] = f"each view is compared with {_others(resolved.config, plan)} views of other images"
    if isinstance(resolved.config, Pretrain) and plan.classes and plan.val_images:
        rows["kNN bank"] = f"{plan.bank} of {plan.labelled} labelled training images"
    rows |= {origin: ", ".join(flags) for origin, flags in _flags_by_origin(resolved).items()}
    lines = [f"cl {cl.__version__}: {plan.title}"]
    lines += [line for name, text in rows.items() for line in banner_row(name, text)]
    return "\n".join(lines + [line for text in warnings_of(resolved, plan) for line in banner_row("warning", text)])


def _rates(pairs: Sequence[OptimConfig], batch: int) -> str:
    first, last = pairs[0], pairs[-1]
    if len(pairs) == 1:
        return f"{first.lr:g} per 256 images, {first.scaled_lr(batch):g} after scaling"
    return (
        f"{len(pairs)} pairs, rates {first.lr:g} to {last.lr:g} per 256 images, decays {first.weight_decay:g} to "
        f"{last.weight_decay:g}; a tenth of the training images picks"
    )


def _others(config: Pretrain, plan: Plan) -> int:
    views = config.views.n_crops + config.views.n_small_crops * config.views.multicrop
    return views * (plan.budget.global_batch // plan.accumulate - 1)


def banner_row(name: str, text: str) -> list[str]:
    """A name and what is to be said of it, in as many lines as it takes."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"  {name:<{NAMES - 2}}  ",
        subsequent_indent=" " * (NAMES + 2),
        break_on_hyphens=False,
    )


def _flags_by_origin(resolved: Resolved[Any]) -> dict[str, list[str]]:
    """The flags that have a value, by where it came from: typed, preset, default."""
    idle = RESNETS_ONLY if resolved.config.backbone.timm_name else ()
    parts = {type(part): vars(part) for part in vars(resolved.config).values()}
    usable = [
        (d.name, values[d.name])
        for part, values in parts.items()
        for d in fields_of(part)
        if values[d.name] not in (None, ()) and d.name not in idle
    ]
    origins = sorted(set(resolved.origins.values()), key=lambda origin: (origin == "default", origin != "typed"))
    return {
        origin: [f"{name} {shown(value)}" for name, value in usable if resolved.origins[name] == origin]
        for origin in origins
    }


def warnings_of(resolved: Resolved[Any], plan: Plan) -> Iterator[str]:
    """What is allowed but probably not meant."""
    config, typed = resolved.config, {name for name, origin in resolved.origins.items() if origin == "typed"}
    yield from plan.notes
    optim, cores = config.optim, os.cpu_count() or 1
    if config.data.workers() > cores:
        yield f"--num_workers {config.data.workers()} on {cores} cores: loader processes will wait for one another"
    if "momentum" in typed and optim.optimizer != "sgd":
        yield f"--momentum has no effect with --optimizer {optim.optimizer}"
    for flag, schedule in (("lr_decay_steps", "step"), ("warmup_epochs", "warmup_cosine")):
        if flag in typed and optim.scheduler != schedule:
            yield f"--{flag} has no effect with --scheduler {optim.scheduler}"
    if isinstance(config, Linear) and config.linear.protocol == "cached":
        yield from (
            f"--{flag} has no effect with --protocol cached" for flag in ("min_scale", "precision") if flag in typed
        )
    values = plain_values(resolved)
    for flag, switch in NEEDS.items():
        if flag in typed and not values[switch]:
            yield f"--{flag} has no effect without --{switch}"
    if isinstance(config, Pretrain) and config.method.uses_labels and not plan.labelled:
        yield f"{config.method.method} learns from labels, and there are none: each image is a class of its own"
    left_out = plan.train_images % plan.budget.global_batch
    if left_out > plan.train_images / 5 and not config.data.last_batch_fill:
        yield f"an epoch leaves out {left_out} of the images; --last_batch_fill or a smaller --batch_size has them"
    if config.run.fast_dev_run:
        yield "--fast_dev_run: one training and one validation batch; the numbers mean nothing"
