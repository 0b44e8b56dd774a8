"""What a run has measured and how it was started, as the page shows it."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cl.machine.started_as import shown
from cl.report_page.own_files import own_text_if_any
from cl.report_page.runs import Run

MAX_EPOCHS = 1000  # of a curve; of a longer one every n-th epoch is shown
Cell = float | str  # a number that is not finite is text: JSON has none
Epochs = Sequence[Mapping[str, Cell]]


@dataclass(frozen=True)
class Measured:
    """A run with its epochs, its times, and what repeats it."""

    run: Run
    key: str  # names the run on the page
    epochs: Epochs  # rows of metrics.csv
    seconds: float
    images_per_second: float | None
    command: str
    made_with: Mapping[str, str]  # machine, commit and versions

    @classmethod
    def read(cls, run: Run, key: str) -> "Measured":
        """Whatever is there; a run that goes on counts with the latest value of each column."""
        epochs = read_table(own_text_if_any(run.folder, "metrics.csv"))
        timing = read_table(own_text_if_any(run.folder, "timing.csv"))
        speeds = numbers(timing, "images_per_second")
        if not run.ended:
            latest = {name: value for row in epochs for name, value in row.items() if isinstance(value, float)}
            run = replace(run, metrics=latest)
        return cls(
            run=run,
            key=key,
            epochs=thinned(epochs),
            seconds=sum(value for name in SECONDS for value in numbers(timing, name)),
            images_per_second=run.metrics.get("images_per_second", statistics.median(speeds) if speeds else None),
            command=command(run),
            made_with=made_with(run.folder),
        )

    @property
    def progress(self) -> str:
        """How far the run came."""
        done = max(numbers(self.epochs, "epoch"), default=0.0)
        return f"epoch {done:.0f} of {self.run.flags['epochs']}"

    @property
    def latest(self) -> dict[str, Cell]:
        """The last value of each column of metrics.csv."""
        return {name: value for row in self.epochs for name, value in row.items()}

    @property
    def columns(self) -> dict[str, list[Cell | None]]:
        """metrics.csv by column; None where an epoch did not measure it."""
        return {name: [row.get(name) for row in self.epochs] for name in self.latest}


SECONDS = ("seconds", "features_seconds", "heads_seconds")  # columns of timing.csv; of a run that trains, the first


def read_table(text: str) -> list[dict[str, Cell]]:
    """The rows of a CSV file of numbers, without cells that are no number and without an incomplete line."""
    complete = text[: text.rfind("\n") + 1].replace("\0", "")
    rows = []
    for row in csv.DictReader(io.StringIO(complete)):
        cells = {name: _number(cell) for name, cell in row.items() if name and isinstance(cell, str)}
        rows.append({name: value for name, value in cells.items() if value != ""})
    return [row for row in rows if row]


def _number(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return ""
    return value if math.isfinite(value) else str(value)


def numbers(rows: Epochs, column: str) -> list[float]:
    return [value for row in rows if isinstance(value := row.get(column), float)]


def thinned(rows: Sequence[Mapping[str, Cell]]) -> Epochs:
    """At most MAX_EPOCHS rows at equal distances, the last one included."""
    step = math.ceil(len(rows) / MAX_EPOCHS) or 1
    return rows[::-1][::step][::-1]


def command(run: Run) -> str:
    """The command line that started the run, with the program as one would start it from here."""
    program = shown("linear" if run.evaluates else "pretrain")
    start = f"python {program}" if program.endswith(".py") else program
    argv = str(_config(run.folder).get("argv", ""))
    return f"{start} {argv}" if argv else ""


def made_with(folder: Path) -> dict[str, str]:
    """Machine, commit and versions, of the process that began the run."""
    config = _config(folder)
    versions = config.get("versions")
    shown = {"machine": str(config.get("machine") or ""), "commit": str(config.get("commit") or "")}
    if isinstance(versions, dict):
        shown["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {name: text for name, text in shown.items() if text}


def _config(folder: Path) -> dict[str, object]:
    try:
        content = json.loads(own_text_if_any(folder, "config.json"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
