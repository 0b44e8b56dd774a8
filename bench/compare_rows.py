"""The rows of compare.py: read from its table, summarise, print, and check against the targets."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan, nan
from typing import NamedTuple

from watched import DEVICE

PIXELS = "raw pixels"
RANDOM = "random initialisation"
SLOWER = {"cpu": 1.1, "cuda": 0.5}  # target: at most this multiple of lightly's time
SHARE = 0.2  # target: at most this multiple of lightly's share of data and loss
BELOW = -2.0  # target: points that a mean accuracy may lie below lightly's
UNTRAINED = 2.0  # points around random initialisation in which nothing is compared
ABOVE = {"cpu": {"simclr": 5.0, "supcon": 5.0}, "cuda": {}}  # target: points above random initialisation
ABOVE_DEFAULT = {"cpu": 0.0, "cuda": 25.0}  # for other methods
KNN = {"simclr": 0.84, "barlow_twins": 0.82, "simsiam": 0.80}  # target: accuracy after 200 epochs of CIFAR-10 on a GPU


@dataclass(frozen=True)
class Row:
    """One run; nan where nothing was measured."""

    method: str
    toolkit: str
    seed: int
    width: int
    epochs: int
    batch_size: int
    commit: str
    linear: float  # accuracies in [0, 1]
    knn: float
    seconds: float = nan
    cpu_seconds: float = nan
    images_per_second: float = nan
    data_share: float = nan
    loss_share: float = nan
    peak_mib: float = nan

    @property
    def budget(self) -> tuple[int, int, int]:
        return self.width, self.epochs, self.batch_size


def row_of(texts: Mapping[str, str]) -> Row:
    return Row(**{field.name: field.type(texts.get(field.name, "")) for field in fields(Row)})  # str, int or float


class Summary(NamedTuple):
    """The runs of one method and toolkit, one per seed."""

    runs: list[Row]
    test_images: int

    def mean(self, name: str) -> float:
        return statistics.mean(getattr(row, name) for row in self.runs)

    def median(self, name: str) -> float:
        """Of the runs that have measured it."""
        values = [getattr(row, name) for row in self.runs]
        return statistics.median([value for value in values if not isnan(value)] or [nan])

    def spread(self, name: str) -> float:
        """Standard deviation of an accuracy over seeds, but at least the sampling error of the test set."""
        mean = self.mean(name)
        over_seeds = statistics.stdev(getattr(row, name) for row in self.runs) if len(self.runs) > 1 else 0.0
        return max(over_seeds, (mean * (1 - mean) / self.test_images) ** 0.5)

    @property
    def data_and_loss(self) -> float:
        """The share of a step spent on data and, where it was measured, on the loss."""
        loss = self.median("loss_share")
        return self.median("data_share") + (0.0 if isnan(loss) else loss)

    def cells(self) -> list[str]:
        cells = [f"{100 * self.mean(name):.1f} +- {100 * self.spread(name):.1f} %" for name in ("linear", "knn")]
        for name, template in TEMPLATES.items():
            median = self.median(name)
            cells.append("" if isnan(median) else template.format(median))
        return cells


def summaries_of(rows: Sequence[Row], test_images: int) -> dict[tuple[str, str], Summary]:
    """By method and toolkit."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row.method, row.toolkit), []).append(row)
    return {pair: Summary(runs, test_images) for pair, runs in by_pair.items()}


TIME = {"cpu": "cpu_seconds", "cuda": "seconds"}[DEVICE.type]  # of the CPU, where other programs may run as well
TEMPLATES = {TIME: "{:.0f} s", "data_share": "{:.1%}", "loss_share": "{:.2%}", "peak_mib": "{:.0f} MiB"}
HEADINGS = "method", "", "seeds", "linear", "kNN", TIME.replace("_", " "), "data", "loss", "peak memory"


def table_of(summaries: Mapping[tuple[str, str], Summary]) -> str:
    """Markdown; untrained baselines come first."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    pairs = sorted(summaries, key=lambda pair: pair[0] not in (PIXELS, RANDOM))
    lines += [(*pair, str(len(summaries[pair].runs)), *summaries[pair].cells()) for pair in pairs]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def share_targets(method: str, ours: Summary, lightlys: Summary) -> Iterator[tuple[str, bool]]:
    """Each target on shares of a step, in words with its numbers, and whether it is met."""
    ratio = ours.data_and_loss / lightlys.data_and_loss
    yield f"{method}: data and loss are {ratio:.2f} of lightly's share, at most {SHARE:g}", ratio <= SHARE


def training_targets(method: str, ours: Summary, lightlys: Summary) -> Iterator[tuple[str, bool]]:
    """Likewise the targets on complete trainings."""
    for name in ("linear", "knn"):
        points = 100 * (ours.mean(name) - lightlys.mean(name))
        yield f"{method}: {name} accuracy is {points:+.1f} points from lightly's, at least {BELOW:g}", points >= BELOW
    ratio = ours.median(TIME) / lightlys.median(TIME)
    highest = SLOWER[DEVICE.type]
    yield f"{method}: {ratio:.2f} of lightly's {TIME.replace('_', ' ')}, at most {highest:g}", ratio <= highest


def untrained(*trained: Summary, random: Summary) -> bool:
    """Whether no toolkit has left the accuracies of random initialisation."""
    return all(100 * abs(each.mean("linear") - random.mean("linear")) <= UNTRAINED for each in trained)


def above_random(method: str, ours: Summary, random: Summary) -> Iterator[tuple[str, bool]]:
    points = 100 * (ours.mean("linear") - random.mean("linear"))
    lowest = ABOVE[DEVICE.type].get(method, ABOVE_DEFAULT[DEVICE.type])
    yield f"{method}: {points:.1f} points above {RANDOM}, more than {lowest:g}", points > lowest


def knn_targets(method: str, ours: Summary) -> Iterator[tuple[str, bool]]:
    """Only for long trainings."""
    if DEVICE.type == "cuda" and method in KNN and ours.runs[0].epochs >= 200:
        accuracy = ours.mean("knn")
        yield f"{method}: kNN accuracy {accuracy:.3f}, at least {KNN[method]}", accuracy >= KNN[method]


def check(summaries: Mapping[tuple[str, str], Summary], quick: bool) -> bool:
    """Print every target; return whether all are met."""
    targets: list[tuple[str, bool]] = []
    for method in dict.fromkeys(method for method, toolkit in summaries if toolkit == "cl"):
        ours = summaries[method, "cl"]
        lightlys = summaries.get((method, "lightly"))
        if lightlys:
            targets += share_targets(method, ours, lightlys)
        if quick:
            continue
        random = summaries[RANDOM, ""]
        if lightlys and untrained(ours, lightlys, random=random):
            print(f"not compared: {method}, which both leave within {UNTRAINED:g} points of {RANDOM}")
            continue
        if lightlys:
            targets += training_targets(method, ours, lightlys)
        targets += [*above_random(method, ours, random), *knn_targets(method, ours)]
    for text, met in targets:
        print(f"{'met' if met else 'BELOW TARGET'}: {text}")
    return all(met for _, met in targets)
