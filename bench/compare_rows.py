"""The rows of compare.py: read from its table, summarised, shown, and held against the targets."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan, nan
from typing import NamedTuple

from watched import DEVICE

PIXELS = "raw pixels"
RANDOM = "random initialisation"
SLOWER = {"cpu": 1.1, "cuda": 0.5}  # target: at most so much of lightly's wall-clock
SHARE = 0.2  # target: at most so much of lightly's share of data and loss
ABOVE = {"cpu": {"simclr": 5.0, "supcon": 5.0}, "cuda": {}}  # points over random initialisation
ABOVE_ELSE = {"cpu": 0.0, "cuda": 25.0}
KNN = {"simclr": 0.84, "barlow_twins": 0.82, "simsiam": 0.80}  # at least, after 200 epochs of CIFAR-10 on a GPU


@dataclass(frozen=True)
class Row:
    """One run; nan where there is nothing to measure."""

    method: str
    toolkit: str
    seed: int
    width: int
    epochs: int
    batch_size: int
    linear: float  # accuracies in [0, 1]
    knn: float
    seconds: float = nan
    images_per_second: float = nan
    data_share: float = nan
    loss_share: float = nan
    peak_mib: float = nan

    @property
    def budget(self) -> tuple[int, int, int]:
        return self.width, self.epochs, self.batch_size


def row_of(texts: Mapping[str, str]) -> Row:
    return Row(**{each.name: each.type(texts.get(each.name, "")) for each in fields(Row)})  # str, int or float


class Summary(NamedTuple):
    """Of the seeds of one method and toolkit."""

    runs: list[Row]
    test_images: int

    def mean(self, name: str) -> float:
        return statistics.mean(getattr(row, name) for row in self.runs)

    def median(self, name: str) -> float:
        return statistics.median(getattr(row, name) for row in self.runs)

    def spread(self, name: str) -> float:
        """Of an accuracy: the standard deviation of the seeds, but no less than what so many test images leave open."""
        mean = self.mean(name)
        of_seeds = statistics.stdev(getattr(row, name) for row in self.runs) if len(self.runs) > 1 else 0.0
        return max(of_seeds, (mean * (1 - mean) / self.test_images) ** 0.5)

    @property
    def rank_slice(self) -> float:
        """Of data and loss."""
        return self.median("data_share") + self.median("loss_share")

    def cells(self) -> list[str]:
        accuracy = [f"{100 * self.mean(name):.1f} +- {100 * self.spread(name):.1f} %" for name in ("linear", "knn")]
        shown = {"seconds": "{:.0f} s", "images_per_second": "{:.0f}", "data_share": "{:.1%}", "loss_share": "{:.2%}",
                 "peak_mib": "{:.0f} MiB"}  # fmt: skip
        medians = {name: self.median(name) for name in shown}
        return [*accuracy, *("" if isnan(value) else shown[name].format(value) for name, value in medians.items())]


def summaries_of(rows: Sequence[Row], test_images: int) -> dict[tuple[str, str], Summary]:
    """By method and toolkit."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row.method, row.toolkit), []).append(row)
    return {pair: Summary(runs, test_images) for pair, runs in by_pair.items()}


HEADINGS = "method", "", "seeds", "linear", "kNN", "wall-clock", "images/s", "data", "loss", "peak memory"


def table_of(summaries: Mapping[tuple[str, str], Summary]) -> str:
    """Markdown; what was not trained comes first."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    in_order = sorted(summaries.items(), key=lambda each: each[0][0] not in (PIXELS, RANDOM))
    lines += [(method, toolkit, str(len(of.runs)), *of.cells()) for (method, toolkit), of in in_order]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def shares_verdicts(method: str, ours: Summary, lightlys: Summary) -> Iterator[tuple[str, bool]]:
    """Each target in words with its numbers, and whether it is met."""
    ratio = ours.rank_slice / lightlys.rank_slice
    yield f"{method}: data and loss are {ratio:.2f} of lightly's share, at most {SHARE:g}", ratio <= SHARE


def verdicts(method: str, ours: Summary, lightlys: Summary) -> Iterator[tuple[str, bool]]:
    """Likewise for what takes whole trainings."""
    for name in ("linear", "knn"):
        overlap = ours.mean(name) + ours.spread(name) >= lightlys.mean(name) - lightlys.spread(name)
        yield f"{method}: {name} accuracy is not below lightly's", overlap
    ratio = ours.median("seconds") / lightlys.median("seconds")
    most = SLOWER[DEVICE.type]
    yield f"{method}: {ratio:.2f} of lightly's wall-clock, at most {most:g}", ratio <= most


def above_random(method: str, ours: Summary, random: Summary) -> Iterator[tuple[str, bool]]:
    points = 100 * (ours.mean("linear") - random.mean("linear"))
    least = ABOVE[DEVICE.type].get(method, ABOVE_ELSE[DEVICE.type])
    yield f"{method}: {points:.1f} points above {RANDOM}, more than {least:g}", points > least


def known_levels(method: str, ours: Summary) -> Iterator[tuple[str, bool]]:
    """Of a long training only."""
    if DEVICE.type == "cuda" and method in KNN and ours.runs[0].epochs >= 200:
        found = ours.mean("knn")
        least = KNN[method]
        yield f"{method}: kNN accuracy {found:.3f}, at least {least}", found >= least


def check(summaries: Mapping[tuple[str, str], Summary], quick: bool) -> bool:
    """Print every target; whether all are met."""
    found: list[tuple[str, bool]] = []
    for method in dict.fromkeys(method for method, toolkit in summaries if toolkit == "cl"):
        ours = summaries[method, "cl"]
        lightlys = summaries.get((method, "lightly"))
        if lightlys:
            found += shares_verdicts(method, ours, lightlys)
        if lightlys and not quick:
            found += verdicts(method, ours, lightlys)
        if not quick:
            found += [*above_random(method, ours, summaries[RANDOM, ""]), *known_levels(method, ours)]
    for text, met in found:
        print(f"{'met' if met else 'BELOW TARGET'}: {text}")
    return all(met for _, met in found)
