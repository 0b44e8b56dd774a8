"""Compare finished runs: python -m cl.report [FOLDER ...] [--csv FILE] [--html FILE] prints a Markdown table.

One row per pretraining and way of evaluating it. Runs that differ only in their seed share a row.
"""

import csv
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import cli
from cl.config.flags import as_typed, typed_path
from cl.config.resume import SUMMARY
from cl.errors import UserError, csv_cell, markdown_cell, one_line
from cl.machine.started_as import argument_parser
from cl.report_page.own_files import own_text

PRETRAINED = {"online": ("online_linear/val_top1",), "kNN": ("knn/val_top1",)}  # column -> metrics of summary.json
EVALUATED = {"offline": ("offline_linear/val_top1", "finetuned/val_top1")}  # a run has one of them
LOCATION_FLAGS = {  # flags that only locate or name a run; all others define it
    "seed", "seeds", "name", "run_id", "output_dir", "project", "wandb", "pretrained_feature_extractor",
}  # fmt: skip
Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder: its flags by name, and its metrics, which are empty unless it has ended."""

    folder: Path
    flags: Flags
    metrics: Mapping[str, float]
    ended: float  # time of its end; 0 if it has not ended
    evaluates: str  # name of the run folder or file whose backbone it evaluates; "" for a pretraining
    protocol: tuple[str, ...]  # typed flags of the evaluation protocol

    @classmethod
    def read(cls, folder: Path) -> "Run":
        contents = json.loads(own_text(folder, "config.json"))
        config = contents["config"]
        flags = {name: entry["value"] for part in config.values() for name, entry in part.items()}
        metrics = {}
        ended = 0.0
        summary = folder / SUMMARY
        if summary.exists():
            metrics = {name: float(value) for name, value in json.loads(own_text(folder, SUMMARY)).items()}
            ended = summary.stat().st_mtime
        evaluates = ""
        protocol: list[str] = []
        if "linear" in config:
            path = Path(contents["pretrained"])
            evaluates = (path.parent if path.name == "last.ckpt" else path).name
            typed = [name for name, entry in config["linear"].items() if entry["origin"] == "typed"]
            protocol = [name for name in typed if name not in LOCATION_FLAGS]
        return cls(folder, flags, metrics, ended, evaluates=evaluates, protocol=tuple(protocol))

    @property
    def kind(self) -> str:
        """A key that runs share if they differ only in their seed."""
        return json.dumps({name: value for name, value in self.flags.items() if name not in LOCATION_FLAGS})

    @property
    def facts(self) -> dict[str, str]:
        """The columns of the recipe table."""
        if not self.evaluates:
            return {name: fact(self.flags) for name, fact in FACTS.items()}
        facts = {"method": f"of {self.evaluates}", "backbone": self.flags["encoder"], "data": self.flags["dataset"]}
        return {name: facts.get(name, "") for name in FACTS}


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, each a run folder or a folder of run folders; others are reported on stderr."""
    runs = []
    for folder in _run_folders(folders):
        try:
            run = Run.read(folder)
            if run.facts and not run.flags["dry_run"]:  # `facts` raises if another version lacks one of its flags
                runs.append(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"skipped {folder}: not a run folder ({type(error).__name__}: {error})"
            print(one_line(reason), file=sys.stderr)
    return runs


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"folders: got {folder}, expected a run folder or a folder of runs: trained_models")
        if (folder / "config.json").exists():
            yield folder
        else:
            yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


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
        return {name: value for name, value in flags.items() if name.removeprefix("linear ") not in LOCATION_FLAGS}

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


def value_as_typed(value: Any) -> str:
    return as_typed(tuple(value) if isinstance(value, list) else value)


def _backbone(flags: Flags) -> str:
    width = f", width {flags['width']}" if flags["width"] != 64 else ""
    return flags["encoder"] + width


def _batch(flags: Flags) -> str:
    """Images per optimizer step."""
    processes = len(flags["gpus"] or ()) or flags["devices"] or 1
    return str(flags["batch_size"] * flags["accumulate"] * processes * flags["num_nodes"])


HEADS = ("proj_output_dim", "pred_hidden_dim")
FACTS: dict[str, Callable[[Flags], str]] = {
    "method": lambda flags: flags["method"],
    "backbone": _backbone,
    "data": lambda flags: flags["dataset"],
    "epochs": lambda flags: f"{flags['max_steps']} steps" if flags["max_steps"] else str(flags["epochs"]),
    "batch": _batch,
    "T": lambda flags: value_as_typed(flags.get("temperature", "")),
    "head": lambda flags: "/".join(str(flags[name]) for name in HEADS if name in flags),
    "multi-crop": lambda flags: "yes" if flags["multicrop"] else "",
    "loader": lambda flags: flags["loader"],
}


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Group runs that differ only in their seed into rows; of two runs with the same seed the newer one counts."""
    by_name = {run.folder.name: run for run in runs if not run.evaluates}
    pretrained: dict[str, dict[int, Run]] = {}
    evaluated: dict[str, dict[str, dict[tuple[int, int], Run]]] = {}  # pretraining kind -> evaluation kind -> seeds
    for run in sorted(runs, key=lambda run: (run.ended, run.folder.name)):
        seed = run.flags["seed"]
        if not run.evaluates:
            pretrained.setdefault(run.kind, {})[seed] = run
            continue
        source = by_name.get(run.evaluates)
        kind = source.kind if source else run.evaluates
        source_seed = source.flags["seed"] if source else 0
        evaluated.setdefault(kind, {}).setdefault(run.kind, {})[source_seed, seed] = run
    rows = [
        Row(_by_seed(pretrained.get(kind, {})), _by_seed(seeds))
        for kind in pretrained | evaluated
        for seeds in evaluated.get(kind, {"": {}}).values()
    ]
    return sorted(rows, key=lambda row: (*row.facts.values(), row.runs[0].folder.name))


def _by_seed(runs: Mapping[Any, Run]) -> list[Run]:
    return [runs[seed] for seed in sorted(runs)]


def report(folders: Sequence[Path], file: Path | None = None) -> str:
    """The runs in `folders` as `tabulate` has them."""
    return tabulate(find_runs(folders), file)


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
    args = parser.parse_args(argv)
    runs = find_runs(args.folders)
    print(tabulate(runs, args.csv))
    if args.html is not None:
        from cl.report_page.page import write_page

        write_page(runs, args.folders, args.html)


if __name__ == "__main__":
    cli.run(main)
