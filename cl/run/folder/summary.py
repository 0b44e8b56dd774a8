"""What a run ends with: a table, a summary, and the command that comes next."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from cl.cli import Resolved
from cl.config.programs import Pretrain
from cl.config.resume import SUMMARY
from cl.evaluation.offline.feature_scores import NEIGHBOURS, TEMPERATURES, few_shot_metric, knn_metric
from cl.evaluation.offline.few_labels import LABELS
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.evaluation.online.metrics import shown_metric
from cl.run.folder.atomic_files import as_json, keep_whole

CARRIED = (  # what the evaluation needs to see the same images on the same machine
    "data_folder", "train_dir", "val_dir", "labels", "in_channels", "crop_size", "limit_eval",
    "accelerator", "gpus", "devices", "output_dir",
)  # fmt: skip


def close(folder: Path, columns: Mapping[str, str], metrics: Mapping[str, float], images_per_second: float) -> str:
    """Write summary.json; return the closing table: `columns` maps its headings to metrics, "-" where not measured."""
    summary = as_json(dict(metrics) | {"images_per_second": round(images_per_second, 1)})
    keep_whole(folder / SUMMARY, lambda file: file.write(summary))
    cells = {head: shown_metric(name, metrics[name]) if name in metrics else "-" for head, name in columns.items()}
    cells |= {"images/s": f"{images_per_second:.0f}", "run folder": str(folder)}
    widths = [max(len(heading), len(cell)) for heading, cell in cells.items()]
    rows = (cells.keys(), ["-" * width for width in widths], cells.values())
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def probe_table(metrics: Mapping[str, float], bank: int) -> str:
    """What else the frozen features are worth, each number with what it depends on."""
    rows = {
        f"kNN (k {min(k, bank)}, T {temperature:g}, cosine)": shown_metric(name, metrics[name])
        for k in NEIGHBOURS
        for temperature in TEMPERATURES
        if (name := knn_metric(k, temperature)) in metrics
    }
    for labels in LABELS:
        if (name := few_shot_metric(labels)) in metrics:
            spread = shown_metric(name, metrics[f"{name}_std"])
            rows[f"{labels} label{'s' * (labels > 1)} a class"] = f"{shown_metric(name, metrics[name])} +- {spread}"
    return "\n".join(f"{name:<29}{cell}" for name, cell in rows.items())


def picked(linear: LinearEvaluation) -> str:
    """Which pair of a grid it became, and why; nothing if there was only one."""
    if len(linear.pairs) == 1:
        return ""
    pair, name = linear.pairs[linear.best], linear.name
    after = {
        "cached": "the head was then trained on all of them",
        "standard": "the head is the one that was trained beside the others, on the other nine tenths",
    }
    said = (
        f"Of {len(linear.pairs)} pairs --lr {pair.lr:g} --weight_decay {pair.weight_decay:g} was the most accurate "
        f"({shown_metric(f'{name}_top1', linear.accuracies[linear.best])}) on a tenth of the training images; "
        f"{after[linear.config.protocol]}. All pairs are in grid.csv and linear_grid.png."
    )
    return textwrap.fill(said, 110, break_on_hyphens=False)


def next_step(resolved: Resolved[Pretrain], folder: Path, labelled: bool) -> str:
    """What to do with the run folder; the command is one line that can be pasted where this program was started."""
    if not labelled:
        return f"Without labels there is no accuracy; {folder / 'neighbours.png'} shows what the backbone finds alike."
    return "Next, linear evaluation of the frozen backbone:\n\n" + _linear_command(resolved, folder)


def _linear_command(resolved: Resolved[Pretrain], folder: Path) -> str:
    config, origins = resolved.config, resolved.origins
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
