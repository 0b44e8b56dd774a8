"""The end of a run: its results table, summary.json, and the next command."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from cl.cli import Resolved
from cl.config.programs import Pretrain
from cl.config.resume import SUMMARY
from cl.errors import one_line
from cl.evaluation.online.metrics import format_metric
from cl.machine.started_as import command_of
from cl.run.folder.atomic_files import as_json, write_or_stop

EVALUATION_FLAGS = (  # copied to the next command, so that it uses the same images and devices
    "data_folder", "train_dir", "val_dir", "labels", "label_column", "image_column", "hold_out", "in_channels",
    "crop_size", "limit_eval", "accelerator", "gpus", "devices", "output_dir",
)  # fmt: skip


def write_summary(folder: Path, metrics: Mapping[str, float], images_per_second: float) -> None:
    """Write summary.json; its presence marks a finished run."""
    summary = as_json(dict(metrics) | {"images_per_second": round(images_per_second, 1)})
    write_or_stop(folder / SUMMARY, lambda file: file.write(summary))


def closing_table(
    columns: Mapping[str, str], metrics: Mapping[str, float], images_per_second: float, folder: Path
) -> str:
    """A heading line, a rule and one row; `columns` maps headings to metrics, "-" marks a missing one."""
    cells = {
        heading: format_metric(name, metrics[name]) if name in metrics else "-" for heading, name in columns.items()
    }
    cells |= {"images/s": f"{images_per_second:.0f}", "run folder": one_line(str(folder))}
    widths = [max(len(heading), len(cell)) for heading, cell in cells.items()]
    rows = (cells.keys(), ["-" * width for width in widths], cells.values())
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def worth_command(folder: Path) -> str:
    """How to compare the run with what one had before, to be run from the current working directory."""
    return f"Was it worth it?\n\n{shlex.join([*command_of('worth'), str(folder)])}"


def next_command(resolved: Resolved[Pretrain], folder: Path, labelled: bool) -> str:
    """What to do next; the command is one line, to be run from the current working directory."""
    if not labelled:
        picture = one_line(str(folder / "neighbours.png"))
        return f"Without labels there is no accuracy; {picture} shows which images the backbone finds similar."
    return "Next, linear evaluation of the frozen backbone:\n\n" + _linear_command(resolved, folder)


def _linear_command(resolved: Resolved[Pretrain], folder: Path) -> str:
    config = resolved.config
    origins = resolved.origins
    words = [*command_of("linear"), config.data.dataset, config.backbone.encoder]
    for part in (config.data, config.views, config.device, config.run):
        for name in EVALUATION_FLAGS:
            if name in vars(part) and origins[name] == "typed":
                value = vars(part)[name]
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{name}", *map(str, values)]
    return shlex.join([*words, "--pretrained_feature_extractor", str(folder)])
