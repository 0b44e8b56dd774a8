"""metrics.csv: one row per epoch, and nothing in it that was timed (times go to timing.csv)."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from cl.run.folder.atomic_files import keep_whole

Row = Mapping[str, int | float]


class Table:
    """A CSV file whose columns may grow, and the rows it has. Each row writes it anew: nobody reads half of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []  # type: tuple[Path, list[Mapping[str, str]]]
        if path.is_file():
            with path.open(newline="") as file:
                self.rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]

    def append(self, row: Mapping[str, float | str]) -> None:
        self.rows.append({name: _shown(value) for name, value in row.items()})
        self._write()

    def keep(self, wanted: Callable[[Mapping[str, str]], bool]) -> None:
        """Drop the rows that are not `wanted`."""
        kept = [row for row in self.rows if wanted(row)]
        if len(kept) < len(self.rows):
            self.rows = kept
            self._write()

    def _write(self) -> None:
        columns, text = list(dict.fromkeys(name for row in self.rows for name in row)), io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        keep_whole(self.path, lambda file: file.write(text.getvalue().encode()))


def _shown(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
    """The way to `metrics.csv`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = Table(folder / "metrics.csv")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._table.append(metrics)
