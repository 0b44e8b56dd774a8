"""The CSV files of a run folder: metrics.csv, timing.csv, grid.csv."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from cl.run.folder.atomic_files import write_or_stop


class Table:
    """A CSV file; rows may add columns. Each change rewrites the file atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Mapping[str, str]] = []
        if path.is_file():
            with path.open(newline="") as file:
                self.rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]

    def append(self, row: Mapping[str, float | str]) -> None:
        self.rows.append({name: _cell(value) for name, value in row.items()})
        self._write()

    def keep(self, predicate: Callable[[Mapping[str, str]], bool]) -> None:
        """Remove the rows for which `predicate` is false."""
        matching = [row for row in self.rows if predicate(row)]
        if len(matching) < len(self.rows):
            self.rows = matching
            self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_or_stop(self.path, lambda file: file.write(text.getvalue().encode()))


def _cell(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
