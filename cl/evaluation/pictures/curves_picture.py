"""`curves.png`: training curves from the rows of metrics.csv."""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cl.evaluation.pictures.drawing import draw, with_own_settings

Rows = Sequence[Mapping[str, float]]

PANELS = {  # title -> column of metrics.csv -> its label in the legend
    "training loss": {"loss": ""},
    "accuracy, %": {
        "online_linear/train_top1": "online, training views",
        "online_linear/val_top1": "online, validation",
        "knn/val_top1": "kNN, validation",
    },
    "effective rank of the projections": {"health/rank": ""},
    "learning rate": {"lr": ""},
}
STYLES = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#000000", ":", "^"))  # distinguishable without colour, too
MAX_MARKERS = 30  # a line with more points has no markers: they would overlap
REDRAW_SECONDS = 60  # between pictures during training: each takes half a second


def read_rows(metrics: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; a row lacks the columns that its epoch did not measure."""
    with metrics.open(newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


@with_own_settings
def save_curves(rows: Rows, path: Path) -> None:
    """Draw each of PANELS that has a measured column."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    measured = {name for row in rows for name in row}
    panels = {title: lines for title, lines in PANELS.items() if measured & lines.keys()}
    grid_rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(8.5, 0.2 + 2.5 * grid_rows), layout="constrained")
    for number, (title, lines) in enumerate(panels.items(), start=1):
        axis = figure.add_subplot(grid_rows, 2, number)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        _draw_lines(axis, rows, lines, scale=100 if "%" in title else 1)
    figure.savefig(path, dpi=100)


def _draw_lines(axis: Any, rows: Rows, lines: Mapping[str, str], scale: int) -> None:
    """A line for each measured column; epochs without a value are skipped."""
    for (name, label), (colour, dashes, marker) in zip(lines.items(), STYLES, strict=False):
        epochs = [row["epoch"] for row in rows if name in row]
        values = [scale * row[name] for row in rows if name in row]
        marker = marker if len(values) <= MAX_MARKERS else ""
        if values:
            axis.plot(epochs, values, dashes, color=colour, marker=marker, markersize=4, label=label)
    if len(lines) > 1:
        axis.legend(fontsize=9, edgecolor="none")


class SaveCurves(Callback):
    """Save `curves.png` at the end of training, and from time to time during a long one."""

    def __init__(self, metrics: Path, path: Path) -> None:
        self.metrics = metrics
        self.path = path
        self._last_drawn = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.monotonic() - self._last_drawn > REDRAW_SECONDS and self.metrics.exists():
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            draw(self.path, lambda: save_curves(read_rows(self.metrics), self.path))
            self._last_drawn = time.monotonic()
