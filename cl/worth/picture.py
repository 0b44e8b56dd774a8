"""`worth.png`: the accuracy of each row with its interval, one panel per column."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cl.evaluation.pictures.drawing import draw_for_each, label, with_own_settings
from cl.worth.networks import Row
from cl.worth.table import Cells

PICTURE = "worth.png"
BASELINE, RUN = "0.45", "#0072B2"


def draw_worth(rows: Sequence[Row], accuracies: Cells, title: str) -> str:
    """Draw worth.png in the folder of each run, and name the pictures."""
    runs = [row.run for row in rows if row.run is not None]
    names = [run.name for run in runs]
    return draw_for_each([run.folder / PICTURE for run in runs], partial(save_worth, accuracies, names, title))


@with_own_settings
def save_worth(accuracies: Cells, runs: Sequence[str], title: str, path: Path) -> None:
    """Draw the points of all rows of `accuracies`, those of `runs` in colour, with bars for the intervals."""
    from matplotlib.figure import Figure

    names = list(accuracies)
    columns = list(next(iter(accuracies.values())))
    figure = Figure(figsize=(2.2 + 2.1 * len(columns), 1.1 + 0.34 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(panels, columns, strict=True):
        for height, name in enumerate(reversed(names)):
            cell = accuracies[name][column]
            low, high = cell.value - cell.low, cell.high - cell.value
            colour, marker = (RUN, "o") if name in runs else (BASELINE, "s")
            bar = [[100 * max(low, 0)], [100 * max(high, 0)]]
            axis.errorbar(100 * cell.value, height, xerr=bar, fmt=marker, color=colour, capsize=3, markersize=5)
        axis.set_title(column, fontsize=10)
        axis.set_xlabel("%", fontsize=9)
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(-0.6, len(names) - 0.4)
    panels[0].set_yticks(range(len(names)), [label(name) for name in reversed(names)], parse_math=False)
    figure.suptitle(f"{title}, 95 % intervals", fontsize=11)
    figure.savefig(path, dpi=100)
