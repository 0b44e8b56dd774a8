"""Parts of a bench, each a process with its own limit, and a report that is written as they end."""

import csv
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from watched import limited

Figures = Mapping[str, float | str]
SHORTEST = 3.0  # seconds that must be left for a part to start


@dataclass(frozen=True)
class Part:
    """A command, how long it may take, and how its figures are found in what it printed or left."""

    name: str
    command: Sequence[str]
    limit: float  # seconds
    figures: Callable[[Path], Figures]  # of its log
    needs: Sequence[str] = ()  # modules


@dataclass(frozen=True)
class Result:
    part: str
    status: str  # "done", or what happened
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    log: str = ""


def run_parts(parts: Sequence[Part], seconds: float, out: Path, folder: Path, title: str) -> list[Result]:
    """Run the parts one after the other in `folder`, for at most `seconds`; report.md and report.json appear in `out`.

    What fails or reaches its limit costs its own time, and a line.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    results: list[Result] = []
    for number, part in enumerate(parts, start=1):
        log = out / "logs" / f"{number:02d}-{''.join(c if c.isalnum() else '-' for c in part.name)}.log"
        result = _result(part, deadline - time.monotonic(), log, folder)
        print(row(result), flush=True)
        results.append(result)
        _write(results, out, title)
    return results


def _result(part: Part, left: float, log: Path, folder: Path) -> Result:
    missing = [name for name in part.needs if not _installed(name)]
    if missing:
        return Result(part.name, f"skipped: {', '.join(missing)} not installed")
    if left < SHORTEST:
        return Result(part.name, "skipped: no time was left")
    began = time.monotonic()
    failure = limited(part.command, min(part.limit, left), log, folder)
    seconds = time.monotonic() - began
    if failure:
        return Result(part.name, failure, seconds, log=log.name)
    try:
        return Result(part.name, "done", seconds, part.figures(log), log.name)
    except Exception as error:  # a log that is not as expected costs a line, too
        return Result(part.name, f"no figures: {type(error).__name__}: {error}", seconds, log=log.name)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


def heading() -> str:
    return "| part | status | seconds | figures |\n|---|---|---|---|"


def row(result: Result) -> str:
    figures = "; ".join(f"{name} {value if isinstance(value, str) else _number(value)}"
                        for name, value in result.figures.items())  # fmt: skip
    status = result.status.replace("|", "/")[:300]
    return f"| {result.part} | {status} | {result.seconds:.0f} | {figures.replace('|', '/')} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _write(results: Sequence[Result], out: Path, title: str) -> None:
    table = "\n".join([title, "", heading(), *map(row, results), ""])
    (out / "report.md").write_text(table)
    content = {"title": title, "parts": [vars(result) for result in results]}
    (out / "report.json").write_text(json.dumps(content, indent=2) + "\n")


def last_line(log: Path) -> Figures:
    """Of a part that prints its figures as JSON."""
    figures: Figures = json.loads(log.read_text().splitlines()[-1])
    return figures


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return list(csv.DictReader(file))
