"""The start banner: the plan of the run, the origin of each flag's value, and warnings."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import cl
from cl.cli import Resolved
from cl.config.backbone import RESNETS_ONLY, TIMMS_ONLY
from cl.config.flags import as_typed, fields_of
from cl.config.optim import OptimConfig
from cl.config.programs import Linear, Pretrain
from cl.errors import format_bytes, one_line
from cl.machine.cores import cores_per_process
from cl.run.folder.resume_point import StartingPoint
from cl.run.folder.run_folder import plain_values
from cl.run.start.memory import SHARED_MEMORY, free_bytes
from cl.run.start.plan import Plan

LINES = 12  # without warnings and --verbose
WIDTH = 110  # columns
NAME_WIDTH = 20
REQUIRED_SWITCH = {  # flag -> the switch without which it has no effect
    "lars_eta": "lars", "lars_clip": "lars",
    "n_small_crops": "multicrop", "small_crop_size": "multicrop", "small_scale": "multicrop",
    "backbone_lr_factor": "finetune", "queue_start_epoch": "queue_size",
    "clip_each_parameter": "clip_grad", "teacher_temperature_start": "teacher_temperature_warmup_epochs",
}  # fmt: skip
REQUIRED_VALUE = {"dali_device": ("loader", "dali"), "shuffle_window": ("shuffle", "shards")}  # likewise


def banner(resolved: Resolved[Any], plan: Plan, start: StartingPoint, weights: str = "") -> str:
    """What to check before a long run, in at most `LINES` lines; --verbose shows every value.

    `weights` describes the initial weights of the backbone. What is assumed about them is shown in full, like warnings.
    """
    config = resolved.config
    rows = _numbers_that_matter(config, plan, start)
    by_origin = _flags_by_origin(resolved)
    lines = [f"cl {cl.__version__}: {plan.title} [{plan.devices}]"]
    if config.run.verbose:
        lines += chain(*(row_lines(name, text) for name, text in (rows | _flag_rows(by_origin)).items()))
    else:
        graphs = plan.devices.accelerator == "gpu"  # a row about CUDA graphs follows
        lines += _cut(rows, by_origin, LINES - len(lines) - graphs - bool(weights))
    if weights:
        lines += row_lines("weights", weights)
    for text in banner_warnings(resolved, plan):
        lines += row_lines("warning", text)
    return "\n".join(lines)


def _flag_rows(by_origin: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {origin: ", ".join(flags) for origin, flags in by_origin.items()}


def _not_in_other_rows(by_origin: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Without the defaults, and without mean and std that weights or data brought: the banner has a row for them."""
    kept = {"typed": list(by_origin["typed"])}
    for origin, flags in by_origin.items():
        others = [flag for flag in flags if not flag.startswith(("mean ", "std "))]
        if origin not in ("typed", "default") and others:
            kept[origin] = others
    return kept


def _cut(rows: Mapping[str, str], by_origin: Mapping[str, Sequence[str]], most: int) -> list[str]:
    """The rows and the flags in `most` lines, or one for each row: flags lose the ends of their lines, then others."""
    flags = _flag_rows(_not_in_other_rows(by_origin))
    if len(rows) + len(flags) > most:
        presets = [f"{origin}: {text}" for origin, text in flags.items() if origin != "typed"]
        flags = {"typed": flags["typed"], "presets": "; ".join(presets)}
    rows = {**rows, **flags}
    lines = {name: row_lines(name, text) for name, text in rows.items()}
    while sum(map(len, lines.values())) > max(most, len(rows)):
        cut = [name for name in flags if len(lines[name]) > 1] or list(rows)
        longest = max(reversed(cut), key=lambda name: len(lines[name]))
        lines[longest] = row_lines(longest, rows[longest], most=len(lines[longest]) - 1)
    return list(chain(*lines.values()))


def _numbers_that_matter(config: Pretrain | Linear, plan: Plan, start: StartingPoint) -> dict[str, str]:
    """Rows of the banner that no flag alone decides."""
    mean = _spaced(plan.norm[0])
    std = _spaced(plan.norm[1])
    rows = {
        "images": _images(plan) + _knn_bank(config, plan),
        "normalised by": f"mean {mean}, std {std} ({plan.norm_origin})",
        "batch": f"{_batch(config, plan)}; steps: {plan.budget.steps_per_epoch} an epoch, {plan.budget.steps} in all",
        "learning rate": _learning_rate(config, plan),
        "loader": plan.loader,
        "run folder": str(start.folder),
    }
    if start.checkpoint:
        change = f"; {start.change}" if start.change else ""
        rows["resumes"] = f"from {start.checkpoint.name}, after {start.step} of {plan.budget.steps} steps{change}"
    if isinstance(config, Pretrain):
        rows |= config.method.banner_rows(other_views=_other_views(config, plan))
    return rows


def row_lines(name: str, text: str, most: int | None = None) -> list[str]:
    """A name and its text, wrapped to the width of the banner; what `most` lines do not hold is left out."""
    return textwrap.wrap(
        one_line(text),
        WIDTH,
        initial_indent=f"  {name:<{NAME_WIDTH - 2}}  ",
        subsequent_indent=" " * (NAME_WIDTH + 2),
        break_on_hyphens=False,
        max_lines=most,
        placeholder=" ... (--verbose)",
    )


def _spaced(values: Sequence[float]) -> str:
    return " ".join(map(str, values))


def _images(plan: Plan) -> str:
    labels = f"{plan.classes} classes" if plan.classes else "no labels"
    return f"{plan.train_images} for training, {plan.val_images or 'none'} for validation, {labels}"


def _knn_bank(config: Pretrain | Linear, plan: Plan) -> str:
    if not (isinstance(config, Pretrain) and plan.classes and plan.val_images):
        return ""
    uses = f"{plan.knn_bank} of {plan.labelled_images} labelled training images"
    return f"; kNN: {uses}" if plan.knn_bank < plan.labelled_images else ""


def _batch(config: Pretrain | Linear, plan: Plan) -> str:
    count = plan.devices.processes
    processes = "1 process" if count == 1 else f"{count} processes"
    accumulated = plan.budget.global_batch // (config.data.batch_size * count)
    if accumulated > 1:
        processes += f" x {accumulated} accumulated"
    return f"{config.data.batch_size} x {processes} = {plan.budget.global_batch} images a step"


def _learning_rate(config: Pretrain | Linear, plan: Plan) -> str:
    optim = config.optim
    warmup = f", {plan.warmup_steps} steps of warm-up" if plan.warmup_steps else ""
    return f"{_grid(optim.grid, plan.budget.global_batch)} ({optim.optimizer}, {optim.scheduler}{warmup})"


def _grid(grid: Sequence[OptimConfig], global_batch: int) -> str:
    first = grid[0]
    last = grid[-1]
    if len(grid) == 1:
        return f"{first.lr:g} per 256 images, {first.scaled_lr(global_batch):g} after scaling"
    return (
        f"{len(grid)} pairs of rates {first.lr:g} to {last.lr:g} per 256 images and decays {first.weight_decay:g} to "
        f"{last.weight_decay:g}; the best pair on a tenth of the training images is kept"
    )


def _other_views(config: Pretrain, plan: Plan) -> int:
    """The number of views of other images that the loss compares each view with."""
    views = config.views.n_crops
    if config.views.multicrop:
        views += config.views.n_small_crops
    return views * (plan.budget.global_batch // plan.losses_per_step - 1)


def _flags_by_origin(resolved: Resolved[Any]) -> dict[str, list[str]]:
    """The flags that have a value, grouped by its origin: typed first, then presets, default last."""
    unused = RESNETS_ONLY if resolved.config.backbone.timm_name else TIMMS_ONLY
    by_origin: dict[str, list[str]] = {"typed": []}
    for part in vars(resolved.config).values():
        for declared in fields_of(type(part)):
            value = vars(part)[declared.name]
            if value not in (None, ()) and declared.name not in unused:
                origin = resolved.origins[declared.name]
                by_origin.setdefault(origin, []).append(f"{declared.name} {as_typed(value)}")
    return dict(sorted(by_origin.items(), key=lambda item: item[0] == "default"))


def banner_warnings(resolved: Resolved[Any], plan: Plan) -> Iterator[str]:
    """Settings that are allowed but probably not intended."""
    config = resolved.config
    yield from (*resolved.notes, *plan.notes)
    workers = config.data.workers()
    cores = cores_per_process()
    if workers > cores:
        of_process = " of each process" if plan.devices.count > 1 else ""
        yield f"--num_workers {workers} on {cores} cores{of_process}: loader processes will compete for cores"
    yield from _shared_memory(plan)
    yield from _without_effect(resolved)
    if isinstance(config, Pretrain) and config.method.uses_labels and not plan.labelled_images:
        yield f"{config.method.method} needs labels, but the images have none: each image is its own class"
    if isinstance(config, Pretrain):
        yield from config.method.warnings(plan.train_images, plan.budget.global_batch, plan.classes)
        yield from _frozen_backbone(config, plan)
    skipped = plan.train_images % plan.budget.global_batch
    if skipped > plan.train_images / 5 and not config.data.last_batch_fill:
        yield f"an epoch skips {skipped} of the images; --last_batch_fill or a smaller --batch_size uses them"
    if config.run.fast_dev_run:
        yield "--fast_dev_run: one training and one validation batch; the numbers are meaningless"


def _frozen_backbone(config: Pretrain, plan: Plan) -> Iterator[str]:
    epochs = config.backbone.freeze_backbone_epochs
    if epochs and config.backbone.init_from is None:
        yield f"--freeze_backbone_epochs {epochs:g} without --init_from freezes random weights"
    if round(epochs * plan.budget.steps_per_epoch) >= plan.budget.steps:
        yield f"--freeze_backbone_epochs {epochs:g} is the whole run: the backbone stays as it starts"


def _shared_memory(plan: Plan) -> Iterator[str]:
    """In a container /dev/shm often has 64 MiB, and the first batches that do not fit end the run."""
    needed = plan.bytes_in_flight * plan.devices.count
    free = free_bytes(SHARED_MEMORY)
    if free is not None and needed > free:
        yield (
            f"the batches on their way from the workers take {format_bytes(needed)}, but {SHARED_MEMORY} has "
            f"{format_bytes(free)} free; give the container more (--shm-size), or use fewer --num_workers"
        )


def _without_effect(resolved: Resolved[Any]) -> Iterator[str]:
    """Typed flags that have no effect because of other flags."""
    config = resolved.config
    optim = config.optim
    typed = {name for name, origin in resolved.origins.items() if origin == "typed"}
    if "momentum" in typed and optim.optimizer != "sgd":
        yield f"--momentum has no effect with --optimizer {optim.optimizer}"
    for flag, schedule in (("lr_decay_steps", "step"), ("warmup_epochs", "warmup_cosine")):
        if flag in typed and optim.scheduler != schedule:
            yield f"--{flag} has no effect with --scheduler {optim.scheduler}"
    if isinstance(config, Linear) and config.linear.protocol == "cached":
        for flag in ("min_scale", "precision"):
            if flag in typed:
                yield f"--{flag} has no effect with --protocol cached"
    values = plain_values(resolved)
    if values.get("queue_size") and values.get("queue_start_epoch", 0) >= config.run.epochs:
        yield (
            f"--queue_size has no effect: --queue_start_epoch {values['queue_start_epoch']} is not below --epochs "
            f"{config.run.epochs}"
        )
    for flag, switch in REQUIRED_SWITCH.items():
        if flag in typed and switch in values and not values[switch]:
            yield f"--{flag} has no effect without --{switch}"
    for flag, (other, value) in REQUIRED_VALUE.items():
        if flag in typed and values[other] != value:
            yield f"--{flag} has no effect without --{other} {value}"
    if isinstance(config, Pretrain):
        yield from _inexact_negatives(config)


def _inexact_negatives(config: Pretrain) -> Iterator[str]:
    if not config.optim.exact_negatives:
        return
    if not config.method.compares_images:
        yield f"--exact_negatives has no effect with --method {config.method.method}, whose loss is per image"
    elif config.optim.accumulate == 1:
        yield "--exact_negatives has no effect without --accumulate"
