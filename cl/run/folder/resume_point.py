"""Find the checkpoint to resume from, and restore the run folder to its state."""

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cl.config.resume import FLAG, LAST, PREVIOUS, Resume
from cl.errors import UserError, warn
from cl.nn.finite import describe_non_finite
from cl.run.folder.checkpoint import diverged_weights, verify_checkpoint
from cl.run.folder.same_run import Identity, change_of_shares, refuse_another_run
from cl.run.folder.tables import Table


class StartingPoint(NamedTuple):
    """Where a run starts: its folder, and the checkpoint and optimizer step to resume from."""

    folder: Path
    checkpoint: Path | None = None
    step: int = 0
    change: str = ""  # how the images of a step were shared out before, if otherwise


class _Saved(NamedTuple):
    """What a checkpoint contains, as far as it decides whether the run can resume."""

    metadata: Mapping[str, Any]
    step: int
    weights: Collection[str]
    diverged: Mapping[str, str]  # weights that are not finite


def find_resume_point(resume: Resume, run: Identity, steps: int) -> StartingPoint:
    """The newest valid checkpoint with fewer than `steps` steps; UserError if it belongs to another run.

    A run that was killed after its last step but before its export and summary repeats the steps between its last two
    checkpoints, which gives the same bits.
    """
    _refuse_edited_tables(resume.folder)
    skipped = []
    diverged = False
    for path in [resume.file] if resume.file else [resume.folder / LAST, resume.folder / PREVIOUS]:
        if not path.is_file():
            continue
        try:
            saved = _read_checkpoint(path)
        except Exception as error:  # torch.load may raise anything for bytes that are not a checkpoint
            skipped.append(f"{path} is incomplete or damaged ({type(error).__name__})")
            continue
        refuse_another_run(saved.metadata, saved.weights, run, path)
        if saved.diverged:
            diverged = True
            skipped.append(f"{path} is not finite: {describe_non_finite(saved.diverged)}")
        elif saved.step < steps:
            _warn_skipped(skipped, f"resuming from {path}")
            return StartingPoint(resume.folder, path, saved.step, change_of_shares(saved.metadata, run))
        else:
            skipped.append(f"{path} has all {steps} steps, but the run did not finish")
    if diverged or not resume.auto:
        hint = "start a new run with a lower --lr" if diverged else "auto with --run_id starts a new run instead"
        raise UserError(
            f"{FLAG}: got {resume.file or resume.folder}, expected a checkpoint to resume from; "
            + "; ".join([*skipped, hint])
        )
    _warn_skipped(skipped, "starting a new run")
    return StartingPoint(resume.folder)


def _read_checkpoint(path: Path) -> _Saved:
    """Raise some exception if the file is damaged, or lacks anything that resuming needs."""
    verify_checkpoint(path)
    checkpoint = torch.load(path, "cpu", weights_only=True, mmap=True)
    metadata = dict(checkpoint["cl"])
    step = int(checkpoint["global_step"])
    weights = checkpoint["state_dict"]
    dict(checkpoint["optimizer_states"][0])  # a checkpoint stripped of it can be used, but not resumed
    return _Saved(metadata, step, set(weights), diverged_weights(weights))


def _warn_skipped(skipped: Sequence[str], action: str) -> None:
    if skipped:
        warn("; ".join([*skipped, action]))


def _step_of(row: Mapping[str, str]) -> int:
    return int(row["step"])


def _epoch_of(row: Mapping[str, str]) -> int:
    return int(row.get("epoch", 1))  # absent from the timing of a grid on cached features


def _refuse_edited_tables(folder: Path) -> None:
    """UserError if metrics.csv or timing.csv is unreadable, such as after a spreadsheet has saved it."""
    try:
        for name, parse in (("metrics.csv", _step_of), ("timing.csv", _epoch_of)):
            for row in Table(folder / name).rows:
                parse(row)
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(
            f"{FLAG}: got {folder}, expected {name} as the run wrote it ({type(error).__name__}: {error}); move "
            "it away to resume with a new one"
        ) from None


def remove_later_rows(start: StartingPoint) -> None:
    """Remove rows written after the checkpoint, and temporary files of a killed process."""
    metrics = Table(start.folder / "metrics.csv")
    metrics.keep(lambda row: _step_of(row) <= start.step)
    Table(start.folder / "timing.csv").keep(lambda row: _epoch_of(row) <= len(metrics.rows))
    for temporary in start.folder.glob(".*-[0-9]*"):
        temporary.unlink()
