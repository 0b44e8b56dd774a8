"""The files and the closing text of a linear evaluation."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save

from cl.evaluation.offline.feature_scores import few_labels_metric, knn_metric
from cl.evaluation.offline.few_labels import LABELS
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.evaluation.online.knn import EVALUATION_KS, EVALUATION_TEMPERATURES
from cl.evaluation.online.metrics import format_metric
from cl.evaluation.pictures.drawing import draw
from cl.evaluation.pictures.grid_picture import save_grid
from cl.run.folder.atomic_files import write_or_stop
from cl.run.folder.closing import closing_table, write_summary
from cl.run.folder.tables import Table


def save_linear_results(linear: LinearEvaluation, images_per_second: float, folder: Path) -> None:
    """Write head.safetensors, the table of a grid, summary.json, and finally the picture of a grid."""
    head = {name: value.detach().cpu().contiguous() for name, value in linear.head.state_dict().items()}
    write_or_stop(folder / "head.safetensors", lambda file: file.write(save(head)))
    if len(linear.grid) > 1:
        _save_grid(linear, folder)
    write_summary(folder, linear.row, images_per_second)
    if len(linear.grid) > 1:
        picture = folder / "linear_grid.png"
        draw(picture, lambda: save_grid(linear.grid, linear.accuracies, linear.best, picture))


def _save_grid(linear: LinearEvaluation, folder: Path) -> None:
    (folder / "grid.csv").unlink(missing_ok=True)  # left by a run that was killed while writing it
    table = Table(folder / "grid.csv")
    for point, accuracy in zip(linear.grid, linear.accuracies, strict=True):
        cell = accuracy if math.isfinite(accuracy) else "diverged"
        table.append({"lr": point.lr, "weight_decay": point.weight_decay, "held_out_top1": cell})


def linear_text(linear: LinearEvaluation, images_per_second: float, train_images: int, folder: Path) -> str:
    """The closing table, the scores of the frozen features, and the choice from a grid."""
    columns = {linear.name.replace("_", " "): f"{linear.name}/val_top1", "top-5": f"{linear.name}/val_top5"}
    table = closing_table(columns, linear.row, images_per_second, folder)
    texts = (table, scores_table(linear.row, train_images), chosen_text(linear))
    return "".join(f"\n{text}\n" for text in texts if text).rstrip("\n")


def scores_table(metrics: Mapping[str, float], bank: int) -> str:
    """kNN and few-label accuracies of the frozen features, with their settings."""
    rows = {
        f"kNN (k {min(k, bank)}, T {temperature:g}, cosine)": format_metric(name, metrics[name])
        for k in EVALUATION_KS
        for temperature in EVALUATION_TEMPERATURES
        if (name := knn_metric(k, temperature)) in metrics
    }
    for labels in LABELS:
        if (name := few_labels_metric(labels)) in metrics:
            spread = format_metric(name, metrics[f"{name}_std"])
            unit = "label" if labels == 1 else "labels"
            rows[f"{labels} {unit} a class"] = f"{format_metric(name, metrics[name])} +- {spread}"
    return "\n".join(f"{label:<29}{cell}" for label, cell in rows.items())


def chosen_text(linear: LinearEvaluation) -> str:
    """Which point of a grid was selected, and how; "" if there was only one."""
    if len(linear.grid) == 1:
        return ""
    point = linear.grid[linear.best]
    accuracy = format_metric(f"{linear.name}_top1", linear.accuracies[linear.best])
    head_training = {
        "cached": "its head was then trained on all of them",
        "standard": "its head was trained on the other nine tenths",
    }
    diverged = sum(not math.isfinite(each) for each in linear.accuracies)
    losers = f" {diverged} of them diverged." if diverged else ""
    text = (
        f"Of {len(linear.grid)} pairs --lr {point.lr:g} --weight_decay {point.weight_decay:g} was the most accurate "
        f"({accuracy}) on a tenth of the training images; {head_training[linear.config.protocol]}. All pairs are in "
        f"grid.csv and linear_grid.png.{losers}"
    )
    return textwrap.fill(text, 110, break_on_hyphens=False)
