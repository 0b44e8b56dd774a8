"""The rows of the page's tables: runs that differ only in their seed, and every run that is not counted with them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl.report import Row, finite_only, rows_of
from cl.report_page.measured import Measured
from cl.report_page.runs import LOCATION_FLAGS, value_as_typed

FACTS = ("method", "backbone", "data", "epochs", "batch")
IN_FACTS = {"method", "encoder", "dataset", "epochs", "batch_size"}  # flags that have a column of their own


@dataclass(frozen=True)
class Shown:
    """A cell: its text and what it is sorted by, which is "" for an empty one."""

    text: str = ""
    order: float | str = ""

    @property
    def is_number(self) -> bool:
        return isinstance(self.order, float)


@dataclass(frozen=True)
class Line:
    """A row of the page: its runs, and a cell for each column."""

    key: str
    runs: Sequence[Measured]
    state: str  # "" if its runs have ended
    flags: Mapping[str, Any]
    cells: Mapping[str, Shown] = field(default_factory=dict)


def lines_of(measured: Sequence[Measured]) -> list[Line]:
    """A line for the runs that count, then one for each run that does not."""
    by_folder = {each.run.folder: each for each in measured}
    counted = [each.run for each in measured if each.run.ended and not each.run.flags["fast_dev_run"]]
    rows = rows_of(counted)
    shown = {run.folder for row in rows for run in row.runs}
    lines = [_line(row, [by_folder[run.folder] for run in row.runs], "") for row in rows]
    for each in measured:
        if each.run.folder not in shown:
            alone = Row([], [each.run]) if each.run.evaluates else Row([each.run], [])
            lines.append(_line(alone, [each], _state(each)))
    return lines


def _state(each: Measured) -> str:
    if not each.run.ended:
        return each.progress
    return "one batch" if each.run.flags["fast_dev_run"] else "older"


def _line(row: Row, runs: Sequence[Measured], state: str) -> Line:
    facts = {name: _fact(row.facts[name]) for name in FACTS}
    accuracies = {name: accuracy(percent) for name, percent in row.percent.items()}
    first = runs[: len(row.pretrained)] or runs  # an evaluation has its own time, of another kind
    seconds = [each.seconds for each in first if each.seconds]
    speeds = [each.images_per_second for each in first if each.images_per_second]
    times = {
        "time": Shown(duration(statistics.mean(seconds)), statistics.mean(seconds)) if seconds else Shown(),
        "images/s": Shown(f"{statistics.mean(speeds):.0f}", statistics.mean(speeds)) if speeds else Shown(),
    }
    return Line(runs[0].key, runs, state, row.flags, facts | accuracies | times)


def _fact(text: str) -> Shown:
    return Shown(text, float(text) if text.isascii() and text.isdigit() else text)


def accuracy(percent: Sequence[float]) -> Shown:
    """Mean, and with several runs the sample deviation and their number."""
    finite = finite_only(percent)
    if not finite:
        return Shown("not finite", "not finite") if percent else Shown()
    mean = statistics.mean(finite)
    spread = f" ± {statistics.stdev(finite):.1f}" if len(finite) > 1 else ""
    count = f" ({len(finite)})" if len(finite) > 1 else ""
    diverged = f", {len(percent) - len(finite)} not finite" if len(finite) < len(percent) else ""
    return Shown(f"{mean:.1f}{spread} %{count}{diverged}", mean)


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def differing_flags(lines: Sequence[Line]) -> list[str]:
    """The flags that have several values among the lines, without those that are columns of the table."""
    values: dict[str, set[str]] = {}
    for line in lines:
        for name, value in line.flags.items():
            values.setdefault(name, set()).add(value_as_typed(value))
    hidden = IN_FACTS | LOCATION_FLAGS
    return [name for name, seen in values.items() if len(seen) > 1 and name.removeprefix("linear ") not in hidden]


def flag_cells(line: Line, names: Sequence[str]) -> list[Shown]:
    return [_flag_cell(line.flags[name]) if name in line.flags else Shown() for name in names]


def _flag_cell(value: Any) -> Shown:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Shown(value_as_typed(value), float(value) if is_number else value_as_typed(value))
