"""The picture of a grid: how accurate each pair of rate and decay was. matplotlib is imported when it is drawn."""

from collections.abc import Sequence
from pathlib import Path

from cl.config.optim import OptimConfig


def save_grid(pairs: Sequence[OptimConfig], accuracies: Sequence[float], picked: int, path: Path) -> None:
    """Accuracy on the images that picked, over rate and decay, in percent; the pair that was picked has a frame."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rates = sorted({pair.lr for pair in pairs})
    decays = sorted({pair.weight_decay for pair in pairs})
    percent = [[100 * accuracies[r * len(decays) + d] for r in range(len(rates))] for d in range(len(decays))]
    figure = Figure(figsize=(max(4.5, 1.6 + 0.75 * len(rates)), 1.5 + 0.55 * len(decays)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(percent, cmap="cividis", aspect="auto", origin="lower")  # one hue order for all kinds of sight
    middle = (min(map(min, percent)) + max(map(max, percent))) / 2
    for d, row in enumerate(percent):
        for r, value in enumerate(row):
            axis.text(
                r, d, f"{value:.1f}", ha="center", va="center", size=11, color="black" if value > middle else "white"
            )
    below, left = picked % len(decays), picked // len(decays)
    for colour, width in (("white", 6), ("black", 3)):  # one of them stands out against any cell
        corner = left - 0.46, below - 0.44
        axis.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, edgecolor=colour, linewidth=width))
    axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axis.set_yticks(range(len(decays)), [f"{decay:g}" for decay in decays])
    axis.set(xlabel="learning rate per 256 images", ylabel="weight decay", title="accuracy on the held-out tenth (%)")
    figure.savefig(path, dpi=100)
