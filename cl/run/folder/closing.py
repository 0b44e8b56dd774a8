"""What a run ends with: a table, a summary, and the command that comes next."""

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from cl.cli import Resolved
from cl.config.programs import Pretrain
from cl.config.resume import SUMMARY
from cl.evaluation.online.metrics import format_metric
from cl.run.folder.atomic_files import as_json, write_or_stop

CARRIED = (  # what the evaluation needs to see the same images on the same machine
    "data_folder", "train_dir", "val_dir", "labels", "in_channels", "crop_size", "limit_eval",
    "accelerator", "gpus", "devices", "output_dir",
)  # fmt: skip


def write_summary(folder: Path, metrics: Mapping[str, float], images_per_second: float) -> None:
    """summary.json, which makes the run a finished one."""
    summary = as_json(dict(metrics) | {"images_per_second": round(images_per_second, 1)})
    write_or_stop(folder / SUMMARY, lambda file: file.write(summary))


def closing_table(
    columns: Mapping[str, str], metrics: Mapping[str, float], images_per_second: float, folder: Path
) -> str:
    """Two lines of text: `columns` maps headings to metrics, "-" where one was not measured."""
    cells = {head: format_metric(name, metrics[name]) if name in metrics else "-" for head, name in columns.items()}
    cells |= {"images/s": f"{images_per_second:.0f}", "run folder": str(folder)}
    widths = [max(len(heading), len(cell)) for heading, cell in cells.items()]
    rows = (cells.keys(), ["-" * width for width in widths], cells.values())
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def next_command(resolved: Resolved[Pretrain], folder: Path, labelled: bool) -> str:
    """What to do with the run folder; the command is one line that can be pasted where this program was started."""
    if not labelled:
        return (
            f"Without labels there is no accuracy; {folder / 'neighbours.png'} shows what the backbone finds similar."
        )
    return "Next, linear evaluation of the frozen backbone:\n\n" + _linear_command(resolved, folder)


def _linear_command(resolved: Resolved[Pretrain], folder: Path) -> str:
    config = resolved.config
    origins = resolved.origins
    script = Path(sys.argv[0]).with_name("main_linear.py")
    words = [_python(), str(script), config.data.dataset, config.backbone.encoder]
    for part in (config.data, config.views, config.device, config.run):
        for name in CARRIED:
            if name in vars(part) and origins[name] == "typed":
                value = vars(part)[name]
                words += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join([*words, "--pretrained_feature_extractor", str(folder)])


def _python() -> str:
    """`python` if that is what runs here, else the full path of this interpreter."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and Path(found).absolute() == Path(sys.executable).absolute():
            return name
    return sys.executable
