"""metrics.csv: one row per epoch, and nothing in it that was timed (times go to timing.csv)."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

Row = Mapping[str, int | float]


class Table:
    """A CSV file whose columns may grow. It is small: each row rewrites it whole, and nobody ever reads half of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []  # type: tuple[Path, list[Row]]

    def append(self, row: Row) -> None:
        self.rows.append(row)
        columns = list(dict.fromkeys(name for each in self.rows for name in each))
        beside = self.path.with_suffix(".tmp")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows({name: _shown(value) for name, value in each.items()} for each in self.rows)
        os.replace(beside, self.path)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def row_of(metrics: Mapping[str, float], step: int | None) -> Row:
    """Lightning counts epochs and steps from 0: here they are what has been done."""
    rest = {name: value for name, value in metrics.items() if name != "epoch"}
    return {"epoch": int(metrics["epoch"]) + 1, "step": (step or 0) + 1} | rest


class RunLog(Logger):
    """A logger of a run folder, under the folder's name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @property
    def name(self) -> str:
        return self._folder.parent.name

    @property
    def version(self) -> str:
        return self._folder.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.json has them."""


class CSVLog(RunLog):
    """Lightning's way to `metrics.csv`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = Table(folder / "metrics.csv")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._table.append(row_of(metrics, step))
