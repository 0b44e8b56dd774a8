"""The checkpoint that a run goes on from, and its folder as it was when that checkpoint was written."""

import csv
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cl.config.flags import as_typed, fields_of
from cl.config.programs import Linear, Pretrain
from cl.config.resume import FLAG, LAST, PREVIOUS, Resume
from cl.data.images import Splits
from cl.errors import UserError
from cl.run.folder.checkpoint import facts_of, verify_checkpoint
from cl.run.folder.tables import Table


class StartingPoint(NamedTuple):
    """Where a run starts: its folder, and the checkpoint and the optimizer step that it goes on from."""

    folder: Path
    checkpoint: Path | None = None
    step: int = 0


def find_resume_point(
    resume: Resume, config: Pretrain | Linear, splits: Splits, steps: int, weights: Collection[str]
) -> StartingPoint:
    """From the newest checkpoint that is whole and leaves some of the `steps` to do.

    A run whose last step is saved, but which was killed before its pictures and tables, repeats what lies between its
    last two checkpoints: the same bits come out. UserError if the checkpoint is of another run than `config`, or has
    others than the `weights` of its module.
    """
    _refuse_other_tables(resume.folder)
    passed_over = []
    for path in [resume.file] if resume.file else [resume.folder / LAST, resume.folder / PREVIOUS]:
        if not path.is_file():
            continue
        try:
            verify_checkpoint(path)
            found = torch.load(path, "cpu", weights_only=True, mmap=True)
            facts = dict(found["cl"])
            step = int(found["global_step"])
            saved = set(found["state_dict"])
            dict(found["optimizer_states"][0])  # without it a checkpoint is for use, not to go on from
        except Exception as error:  # what torch raises for bytes that are no checkpoint is open
            passed_over.append(f"{path} is not whole ({type(error).__name__})")
            continue
        _refuse_another(facts, facts_of(config, splits), path)
        _refuse_other_flags(facts["config"], config, path)
        if other := sorted(saved ^ set(weights)):
            raise UserError(
                f"{FLAG}: got {path}, expected the weights of this version; {len(other)} differ: {other[0]}"
            )
        if step < steps:
            _warn(passed_over, f"going on from {path}")
            return StartingPoint(resume.folder, path, step)
        passed_over.append(f"{path} has all {steps} steps, but the run did not close")
    if not resume.auto:
        raise UserError(
            f"{FLAG}: got {resume.file or resume.folder}, expected a checkpoint to go on from; {'; '.join(passed_over)}"
            "; with auto and --run_id the run starts afresh"
        )
    _warn(passed_over, "starting afresh")
    return StartingPoint(resume.folder)


def _warn(passed_over: Sequence[str], so: str) -> None:
    if passed_over:
        print(f"warning: {'; '.join([*passed_over, so])}", file=sys.stderr, flush=True)


def _refuse_another(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    """UserError where images or processes are not those of the run."""
    flags = {
        "program": FLAG, "schema": FLAG, "processes": "--devices", "images": "--train_dir", "classes": "--train_dir",
        "norm": "--train_dir",
    }  # fmt: skip
    for name, flag in flags.items():
        if theirs.get(name) != ours[name]:
            raise UserError(
                f"{flag}: got {name} {ours[name]}, expected {theirs.get(name)} as in {path}; a run goes on with the "
                "same images and processes"
            )


def _refuse_other_flags(saved: Mapping[str, Mapping[str, Any]], config: Pretrain | Linear, path: Path) -> None:
    """UserError where a checkpoint was moved between run folders, or config.json was changed."""
    theirs = {name: value for part in saved.values() for name, value in part.items()}
    ours = [(each, vars(part)[each.name]) for part in vars(config).values() for each in fields_of(type(part))]
    for declared, value in ours:
        before = theirs.get(declared.name, value)
        if declared.flag.resume == "same" and before != value:
            raise UserError(
                f"{declared.spelling}: got {as_typed(value)} from config.json, expected {as_typed(before)} as in {path}"
            )


def _step_of(row: Mapping[str, str]) -> int:
    return int(row["step"])


def _epoch_of(row: Mapping[str, str]) -> int:
    return int(row.get("epoch", 1))  # the timing of a grid on cached features has none


def _refuse_other_tables(folder: Path) -> None:
    """UserError where metrics.csv or timing.csv was saved by a spreadsheet, its own way."""
    try:
        for name, number_of in (("metrics.csv", _step_of), ("timing.csv", _epoch_of)):
            for row in Table(folder / name).rows:
                number_of(row)
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(
            f"{FLAG}: got {folder}, expected {name} as the run wrote it ({type(error).__name__}: {error}); without "
            "it the run goes on, too, and begins a new one"
        ) from None


def remove_later_rows(start: StartingPoint) -> None:
    """Remove the rows that were written after the checkpoint, and the unfinished files of a killed process."""
    metrics = Table(start.folder / "metrics.csv")
    metrics.keep(lambda row: _step_of(row) <= start.step)
    Table(start.folder / "timing.csv").keep(lambda row: _epoch_of(row) <= len(metrics.rows))
    for half in start.folder.glob(".*-[0-9]*"):
        half.unlink()
