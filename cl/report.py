"""What runs came to: python -m cl.report [FOLDER ...] [--csv FILE] prints a Markdown table.

A row for each pretraining and way of evaluating it. Runs that differ only in their seed are one row.
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import cli
from cl.config.flags import as_typed
from cl.errors import UserError

PRETRAINED = {"online": ("online_linear/val_top1",), "kNN": ("knn/val_top1",)}  # column -> metrics of summary.json
EVALUATED = {"offline": ("offline_linear/val_top1", "finetuned/val_top1")}  # of which a run has one
LOCATION_FLAGS = {  # flags that say where a run lies; the others say what it is
    "seed", "seeds", "name", "run_id", "output_dir", "project", "wandb", "pretrained_feature_extractor",
}  # fmt: skip
Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder: its flags by name, and what it measured, which is nothing unless it ended."""

    folder: Path
    flags: Flags
    metrics: Mapping[str, float]
    ended: float  # when; 0 if it has not
    evaluates: str  # the name of the run folder, or of the file, whose backbone it evaluates; "" of a pretraining
    protocol: tuple[str, ...]  # typed flags that say how it evaluates

    @classmethod
    def read(cls, folder: Path) -> "Run":
        about = json.loads((folder / "config.json").read_text())
        summary = folder / "summary.json"
        flags = {name: each["value"] for part in about["config"].values() for name, each in part.items()}
        metrics, ended = (json.loads(summary.read_text()), summary.stat().st_mtime) if summary.exists() else ({}, 0.0)
        if "linear" not in about["config"]:
            return cls(folder, flags, metrics, ended, "", ())
        path = Path(about["pretrained"])
        said = about["config"]["linear"]
        protocol = tuple(
            name for name, each in said.items() if each["origin"] == "typed" and name not in LOCATION_FLAGS
        )
        evaluates = (path.parent if path.name == "last.ckpt" else path).name
        return cls(folder, flags, metrics, ended, evaluates, protocol)

    @property
    def kind(self) -> str:
        """The same of runs that differ in nothing but their seed."""
        return json.dumps({name: value for name, value in self.flags.items() if name not in LOCATION_FLAGS})

    @property
    def facts(self) -> dict[str, str]:
        """The columns of the recipe table."""
        if not self.evaluates:
            return {name: fact(self.flags) for name, fact in FACTS.items()}
        known = {"method": f"of {self.evaluates}", "backbone": self.flags["encoder"], "data": self.flags["dataset"]}
        return {name: known.get(name, "") for name in FACTS}


def find(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, each a run folder or a folder of those; what is none gets a line on stderr."""
    runs = []
    for folder in _run_folders(folders):
        try:
            run = Run.read(folder)
            if run.facts and not run.flags["dry_run"]:  # facts: a flag that another version did not have is missed here
                runs.append(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"skipped {folder}: no run folder ({type(error).__name__}: {error})", file=sys.stderr)
    return runs


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"folders: got {folder}, expected a run folder or a folder of runs: trained_models")
        if (folder / "config.json").exists():
            yield folder
        else:
            yield from sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())


@dataclass(frozen=True)
class Row:
    """Pretrainings that differ only in their seed, and evaluations of them that do. One of both may be missing."""

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
        """All that may tell this row from another."""
        flags = {name: value for run in self.pretrained[:1] for name, value in run.flags.items()}
        flags |= {f"linear {name}": value for run in self.evaluated[:1] for name, value in run.flags.items()}
        return {name: value for name, value in flags.items() if name.removeprefix("linear ") not in LOCATION_FLAGS}

    def also(self, rows: Sequence["Row"]) -> str:
        """How it was evaluated, and the flags that tell this row from those of `rows` with the same facts."""
        flags = self.flags
        how = {f"linear {name}" for run in self.evaluated for name in run.protocol}
        alike = [row.flags for row in rows if row.facts == self.facts]
        names = [
            name for name in flags if name in how or any(flags[name] != each.get(name, flags[name]) for each in alike)
        ]
        return ", ".join(f"{name} {_as_typed(flags[name])}" for name in names)

    @property
    def percent(self) -> dict[str, list[float]]:
        """The accuracies, each of the runs that measured it."""
        return _percent(self.pretrained, PRETRAINED) | _percent(self.evaluated, EVALUATED)


def _percent(runs: Sequence[Run], columns: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    return {
        column: [100 * run.metrics[name] for run in runs for name in names if name in run.metrics]
        for column, names in columns.items()
    }


def _as_typed(value: Any) -> str:
    return as_typed(tuple(value) if isinstance(value, list) else value)


def _backbone(flags: Flags) -> str:
    return flags["encoder"] + (f", width {flags['width']}" if flags["width"] != 64 else "")


def _batch(flags: Flags) -> str:
    """Images of an optimizer step."""
    processes = len(flags["gpus"] or ()) or flags["devices"] or 1
    return str(flags["batch_size"] * flags["accumulate"] * processes * flags["num_nodes"])


HEADS = ("proj_output_dim", "pred_hidden_dim")
FACTS: dict[str, Callable[[Flags], str]] = {
    "method": lambda flags: flags["method"],
    "backbone": _backbone,
    "data": lambda flags: flags["dataset"],
    "epochs": lambda flags: f"{flags['max_steps']} steps" if flags["max_steps"] else str(flags["epochs"]),
    "batch": _batch,
    "T": lambda flags: _as_typed(flags.get("temperature", "")),
    "head": lambda flags: "/".join(str(flags[name]) for name in HEADS if name in flags),
    "multi-crop": lambda flags: "yes" if flags["multicrop"] else "",
    "loader": lambda flags: flags["loader"],
}


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Runs that differ only in their seed in one row; of two with the same seed the newer one counts."""
    named = {run.folder.name: run for run in runs if not run.evaluates}
    pretrained: dict[str, dict[int, Run]] = {}
    evaluated: dict[str, dict[str, dict[tuple[int, int], Run]]] = {}  # kind of pretraining -> of evaluation -> seeds
    for run in sorted(runs, key=lambda run: (run.ended, run.folder.name)):
        seed = run.flags["seed"]
        if not run.evaluates:
            pretrained.setdefault(run.kind, {})[seed] = run
            continue
        of = named.get(run.evaluates)
        kind, first = (of.kind, of.flags["seed"]) if of else (run.evaluates, 0)
        evaluated.setdefault(kind, {}).setdefault(run.kind, {})[first, seed] = run
    rows = [
        Row(_by_seed(pretrained.get(kind, {})), _by_seed(seeds))
        for kind in pretrained | evaluated
        for seeds in evaluated.get(kind, {"": {}}).values()
    ]
    return sorted(rows, key=lambda row: (*row.facts.values(), row.runs[0].folder.name))


def _by_seed(runs: Mapping[Any, Run]) -> list[Run]:
    return [runs[seed] for seed in sorted(runs)]


def report(folders: Sequence[Path], file: Path | None = None) -> str:
    """The table of the runs in `folders` and what it leaves out, as Markdown; the table as CSV in `file`."""
    runs = find(folders)
    counted = [run for run in runs if run.ended and not run.flags["fast_dev_run"]]
    rows = rows_of(counted)
    if file is not None:
        _write_csv(rows, file)
    left_out = {
        "unfinished": sum(not run.ended for run in runs),
        "of one batch (--fast_dev_run)": sum(bool(run.ended) for run in runs) - len(counted),
        "older than another one with the same flags and seed": len(counted)
        - len({run.folder for row in rows for run in row.runs}),
    }
    lines = [f"{count} run{'s' * (count > 1)} {why}" for why, count in left_out.items() if count]
    return "\n".join([_markdown(rows) if rows else "No run that ended.", *([""] * bool(lines)), *lines])


def _markdown(rows: Sequence[Row]) -> str:
    """The column `also` only where it is needed."""
    cells = [
        row.facts
        | {"also": row.also(rows)}
        | {column: _mean(percent) for column, percent in row.percent.items()}
        | {"run": row.runs[0].folder.name + f" + {len(row.runs) - 1}" * (len(row.runs) > 1)}
        for row in rows
    ]
    columns = [name for name in cells[0] if name != "also" or any(each["also"] for each in cells)]
    table = [columns, ["---"] * len(columns), *([each[name] for name in columns] for each in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _mean(percent: Sequence[float]) -> str:
    """Mean +- sample standard deviation (how many)."""
    if len(percent) < 2:
        return "".join(f"{each:.1f} %" for each in percent)
    return f"{statistics.mean(percent):.1f} +- {statistics.stdev(percent):.1f} % ({len(percent)})"


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    """One number a cell, and every run folder."""
    cells = []
    for row in rows:
        numbers: dict[str, str | int] = {}
        for name, each in row.percent.items():
            numbers[name] = f"{statistics.mean(each):.6g}" if each else ""
            numbers[f"{name}_std"] = f"{statistics.stdev(each):.6g}" if len(each) > 1 else ""
            numbers[f"{name}_n"] = len(each)
        cells.append(
            row.facts | {"also": row.also(rows)} | numbers | {"runs": " ".join(r.folder.name for r in row.runs)}
        )
    try:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(cells[0]) if cells else [])
            writer.writeheader()
            writer.writerows(cells)
    except OSError as error:
        raise UserError(f"--csv: got {path}, expected a file to write to ({error.strerror})") from None


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("trained_models")], help="of runs, or run folders"
    )
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    asked = parser.parse_args(argv)
    print(report(asked.folders, asked.csv))


if __name__ == "__main__":
    cli.run(main)
