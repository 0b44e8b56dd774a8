"""Compare finished runs: python -m cl.report [FOLDER ...] prints a Markdown table, --html FILE writes a page.

One row per pretraining and way of evaluating it. Runs that differ only in their seed share a row.
"""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import cli
from cl.config.flags import typed_path
from cl.errors import UserError, csv_cell, markdown_cell
from cl.machine.started_as import argument_parser
from cl.report_page.runs import LOCATION_FLAGS, Run, find_runs, value_as_typed

PRETRAINED = {"online": ("online_linear/val_top1",), "kNN": ("knn/val_top1",)}  # column -> metrics of summary.json
EVALUATED = {"offline": ("offline_linear/val_top1", "finetuned/val_top1")}  # a run has one of them
HOST = "127.0.0.1"  # no other machine can reach it
PORT = 8765


@dataclass(frozen=True)
class Row:
    """Pretrainings that differ only in their seed, and likewise evaluations of them. Either may be empty."""

    pretrained: Sequence[Run]
    evaluated: Sequence[Run]

    @property
    def runs(self) -> list[Run]:
        return [*self.pretrained, *self.evaluated]

    @property
    def facts(self) -> dict[str, str]:
        return self.runs[0].facts

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that may distinguish this row from others."""
        flags = {name: value for run in self.pretrained[:1] for name, value in run.flags.items()}
        flags |= {f"linear {name}": value for run in self.evaluated[:1] for name, value in run.flags.items()}
        flags = {name: value for name, value in flags.items() if name.removeprefix("linear ") not in LOCATION_FLAGS}
        return flags if self.pretrained else {"evaluates": self.evaluated[0].evaluates, **flags}

    def differences(self, rows: Sequence["Row"]) -> str:
        """The evaluation protocol, and the flags that differ from those of `rows` with the same facts."""
        flags = self.flags
        shown = {f"linear {name}" for run in self.evaluated for name in run.protocol}
        for row in rows:
            if row.facts == self.facts:
                shown |= {name for name, value in row.flags.items() if name in flags and value != flags[name]}
        return ", ".join(f"{name} {value_as_typed(value)}" for name, value in flags.items() if name in shown)

    @property
    def percent(self) -> dict[str, list[float]]:
        """The accuracies of the runs that measured them, by column."""
        return _percent(self.pretrained, PRETRAINED) | _percent(self.evaluated, EVALUATED)


def _percent(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    return {
        column: [100 * run.metrics[name] for run in runs for name in names if name in run.metrics]
        for column, names in columns.items()
    }


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Group runs that differ only in their seed into rows; of two runs with the same seed the newer one counts."""
    pretrainings = {run.folder.resolve(): run for run in runs if not run.evaluates}
    pretrained: dict[str, dict[int, Run]] = {}
    evaluated: dict[str, dict[str, dict[tuple[int, int], Run]]] = {}  # pretraining kind -> evaluation kind -> seeds
    for run in sorted(runs, key=lambda run: (run.ended, run.folder.name)):
        seed = run.flags["seed"]
        if not run.evaluates:
            pretrained.setdefault(run.kind, {})[seed] = run
            continue
        source = _evaluated_by(run, pretrainings)
        kind = source.kind if source else run.evaluates
        source_seed = source.flags["seed"] if source else 0
        evaluated.setdefault(kind, {}).setdefault(run.kind, {})[source_seed, seed] = run
    rows = [
        Row(_by_seed(pretrained.get(kind, {})), _by_seed(seeds))
        for kind in pretrained | evaluated
        for seeds in evaluated.get(kind, {"": {}}).values()
    ]
    return sorted(rows, key=lambda row: (*row.facts.values(), row.runs[0].folder.name))


def _evaluated_by(run: Run, pretrainings: Mapping[Path, Run]) -> Run | None:
    """The pretraining in the folder that `run` evaluates, else, as it may have been moved, the only one of its name."""
    path = Path(run.evaluates)
    if path in pretrainings:
        return pretrainings[path]
    named = [pretraining for folder, pretraining in pretrainings.items() if folder.name == path.name]
    return named[0] if len(named) == 1 else None


def _by_seed(runs: Mapping[Any, Run]) -> list[Run]:
    return [runs[seed] for seed in sorted(runs)]


def report(folders: Sequence[Path]) -> str:
    """The table of the runs in `folders`."""
    return tabulate(find_runs(folders), None)


def tabulate(runs: Sequence[Run], file: Path | None) -> str:
    """Tabulate `runs` as Markdown, and count those not shown; also write the table to `file` as CSV."""
    counted = [run for run in runs if run.ended and not run.flags["fast_dev_run"]]
    rows = rows_of(counted)
    if file is not None:
        _write_csv(rows, file)
    ended = sum(bool(run.ended) for run in runs)
    shown = len({run.folder for row in rows for run in row.runs})
    not_shown = {
        "unfinished": len(runs) - ended,
        "of one batch (--fast_dev_run)": ended - len(counted),
        "older than another one with the same flags and seed": len(counted) - shown,
    }
    table = _markdown(rows) if rows else "No run that ended."
    notes = [f"{count} {'run' if count == 1 else 'runs'} {reason}" for reason, count in not_shown.items() if count]
    return "\n".join([table, "", *notes] if notes else [table])


def _markdown(rows: Sequence[Row]) -> str:
    """The table; the column `also` is omitted if it is empty in every row."""
    lines = [
        row.facts
        | {"also": row.differences(rows)}
        | {column: _mean(percent) for column, percent in row.percent.items()}
        | {"run": _run_names(row)}
        for row in rows
    ]
    columns = [name for name in lines[0] if name != "also" or any(cells["also"] for cells in lines)]
    cells = [[markdown_cell(line[name]) for name in columns] for line in lines]
    table = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _run_names(row: Row) -> str:
    """The name of the first run, and how many more there are."""
    others = len(row.runs) - 1
    name = row.runs[0].folder.name
    return f"{name} + {others}" if others else name


def _mean(percent: Sequence[float]) -> str:
    """Mean +- sample standard deviation (number of runs), and how many runs have a number that is not finite."""
    finite = finite_only(percent)
    if not percent:
        return ""
    if not finite:
        return "not finite"
    diverged = f", {len(percent) - len(finite)} not finite" if len(finite) < len(percent) else ""
    if len(finite) == 1:
        return f"{finite[0]:.1f} %{diverged}"
    return f"{statistics.mean(finite):.1f} +- {statistics.stdev(finite):.1f} % ({len(finite)}){diverged}"


def finite_only(percent: Sequence[float]) -> list[float]:
    return [value for value in percent if math.isfinite(value)]


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    """One number per cell, and all run folders."""
    lines: list[dict[str, str | int]] = []
    for row in rows:
        numbers: dict[str, str | int] = {}
        for name, all_percent in row.percent.items():
            percent = finite_only(all_percent)
            numbers[name] = f"{statistics.mean(percent):.6g}" if percent else ""
            numbers[f"{name}_std"] = f"{statistics.stdev(percent):.6g}" if len(percent) > 1 else ""
            numbers[f"{name}_n"] = len(percent)
        names = " ".join(run.folder.name for run in row.runs)
        text = {name: csv_cell(cell) for name, cell in {**row.facts, "also": row.differences(rows)}.items()}
        lines.append({**text, **numbers, "runs": csv_cell(names)})
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]) if lines else [])
            writer.writeheader()
            writer.writerows(lines)
    except OSError as error:
        raise UserError(f"--csv: got {path}, expected a file to write to ({error.strerror})") from None


def main(argv: Sequence[str]) -> None:
    parser = argument_parser("report", (__doc__ or "").split("\n")[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("trained_models")], help="run folders, or folders of run folders"
    )
    parser.add_argument("--csv", type=typed_path, help="also write the table to this file")
    parser.add_argument("--html", type=typed_path, help="also write a page to this file: tables, curves and pictures")
    parser.add_argument("--serve", action="store_true", help="serve that page instead, for runs that go on")
    parser.add_argument("--host", default=HOST, help="address to serve at; 0.0.0.0 is open to the network: %(default)s")
    parser.add_argument("--port", type=int, default=PORT, help="port to serve at; 0 takes a free one: %(default)s")
    args = parser.parse_args(argv)
    if args.serve:
        from cl.report_page.serve import serve

        return serve(args.folders, args.host, args.port)
    runs = find_runs(args.folders)
    print(tabulate(runs, args.csv))
    if args.html is not None:
        from cl.report_page.page import write_page

        write_page(runs, args.folders, args.html)


if __name__ == "__main__":
    cli.run(main)
