"""`linear_grid.png`: the accuracy of each pair of learning rate and weight decay."""

import math
from collections.abc import Sequence
from pathlib import Path

from cl.config.optim import OptimConfig
from cl.evaluation.pictures.drawing import with_own_settings


@with_own_settings
def save_grid(grid: Sequence[OptimConfig], accuracies: Sequence[float], best: int, path: Path) -> None:
    """Draw the held-out accuracy in percent over rate and decay; a frame marks the `best` point of the grid."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rates = sorted({point.lr for point in grid})
    decays = sorted({point.weight_decay for point in grid})
    percent = [[100 * accuracies[r * len(decays) + d] for r in range(len(rates))] for d in range(len(decays))]
    figure = Figure(figsize=(max(4.5, 1.6 + 0.75 * len(rates)), 1.5 + 0.55 * len(decays)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(percent, cmap="cividis", aspect="auto", origin="lower")  # readable with any colour vision
    finite = [value for row in percent for value in row if math.isfinite(value)]
    middle = (min(finite) + max(finite)) / 2
    for d, row in enumerate(percent):
        for r, value in enumerate(row):
            colour = "white" if value <= middle else "black"  # a pair that diverged has no colour of its own
            text = f"{value:.1f}" if math.isfinite(value) else "diverged"
            axis.text(r, d, text, ha="center", va="center", size=11, color=colour)
    best_rate, best_decay = divmod(best, len(decays))
    corner = best_rate - 0.46, best_decay - 0.44
    for colour, width in (("white", 6), ("black", 3)):  # one of them stands out against any cell
        axis.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor=colour, linewidth=width))
    axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axis.set_yticks(range(len(decays)), [f"{decay:g}" for decay in decays])
    axis.set(xlabel="learning rate per 256 images", ylabel="weight decay", title="accuracy on the held-out tenth (%)")
    figure.savefig(path, dpi=100)
