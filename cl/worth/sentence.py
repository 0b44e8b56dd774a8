"""One sentence per run: better, worse or no difference shown, and whether the run has collapsed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cl.errors import one_line
from cl.evaluation.online.health import health_of, verdict_on
from cl.evaluation.pictures.curves_picture import read_rows
from cl.worth.networks import RAW, Row
from cl.worth.runs import Run
from cl.worth.statistics import Interval
from cl.worth.table import points

# Share of the squared length of features that varies between images. At random initialisation ResNet-18s have 0.1 on
# digits and EfficientNet-Lite0 has 0.009 on photographs; trained, they have 0.5 to 0.7. Rounding alone gives 1e-12.
CONSTANT = 1e-6


def verdict(row: Row, differences: Mapping[str, Interval], column: str, collapse: str = "") -> str:
    """What the run of `row` is, by its differences in `column` to the rows that it is compared with."""
    name = f"{row.name}: {collapse};" if collapse else f"{row.name}:"
    found = _found(differences[row.had], row.had, column)
    pixels = differences[RAW]
    if pixels.high < 0:
        found += f"; {RAW} are better by {-100 * pixels.value:.1f} points ({_range(-pixels.high, -pixels.low)})"
    return one_line(f"{name} {found}.")


def _found(difference: Interval, had: str, column: str) -> str:
    value, low, high = difference
    if low > 0:
        return f"better by {100 * value:.1f} points ({_range(low, high)}) than {had} with {column}"
    if high < 0:
        return f"worse by {-100 * value:.1f} points ({_range(-high, -low)}) than {had} with {column}"
    return (
        f"no difference shown to {had} with {column}: {points(difference)}; could have shown a difference of "
        f"{100 * difference.half_width:.1f} points"
    )


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def collapse_of(run: Run, features: Tensor) -> str:
    """How a collapsed run is called, "" for another: by its features [N, F], or its last projections in metrics.csv."""
    share = varying_share(features)
    if share < CONSTANT:
        return f"collapsed ({share:.1g} of the squared length of its features differs between images)"
    metrics = run.folder / "metrics.csv"
    rows = read_rows(metrics) if metrics.is_file() else []
    measured = health_of(rows[-1]) if rows else None
    if measured is None:
        return ""
    step = int(rows[-1]["step"])
    found = verdict_on(measured, len(features), run.config.method.proj_output_dim, step, step)
    if found is None or not found.alarm:
        return ""
    kind, _, numbers = found.text.partition(": ")
    return f"{kind} ({numbers.split('; ')[0]})"


def varying_share(features: Tensor) -> float:
    """The squared distance of features [N, F] from their mean, as a share of their squared length; 0 if all are 0."""
    features = features.to(torch.float64)
    length = float(features.square().sum())
    return float((features - features.mean(dim=0)).square().sum()) / length if length else 0.0
