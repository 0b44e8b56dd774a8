"""Find the checkpoint to resume from, and restore the run folder to its state."""

import csv
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from cl.config.flags import as_typed, fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain
from cl.config.resume import FLAG, LAST, PREVIOUS, Resume
from cl.data.images import Splits
from cl.data.order.permutation import ORDER
from cl.errors import UserError
from cl.nn.finite import describe_non_finite
from cl.run.folder.checkpoint import checkpoint_metadata, diverged_weights, verify_checkpoint
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


def find_resume_point(
    resume: Resume,
    config: Pretrain | Linear,
    splits: Splits,
    steps: int,
    weights: Collection[str],
    depends_on_processes: str,
    normalises: bool,
) -> StartingPoint:
    """The newest valid checkpoint with fewer than `steps` steps.

    A run that was killed after its last step but before its export and summary repeats the steps between its last two
    checkpoints, which gives the same bits. UserError if the checkpoint belongs to a run with another config, or if its
    weights are not `weights`, the keys of the module's state dict. `depends_on_processes` says what keeps the run from
    going on with another number of processes; "" if nothing does. `normalises` says whether the backbone compares the
    images of a batch, by batch norm.
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
        _refuse_other_order(saved.metadata, path)
        _refuse_other_data(saved.metadata, checkpoint_metadata(config, splits), path)
        before, now = Shares.of(saved.metadata), Shares.of(checkpoint_metadata(config, splits))
        _refuse_other_shares(before, now, depends_on_processes, normalises, path)
        _refuse_other_flags(saved.metadata["config"], config, path)
        _refuse_other_weights(saved.weights, weights, path)
        if saved.diverged:
            diverged = True
            skipped.append(f"{path} is not finite: {describe_non_finite(saved.diverged)}")
            continue
        if saved.step < steps:
            _warn_skipped(skipped, f"resuming from {path}")
            return StartingPoint(resume.folder, path, saved.step, "" if before == now else f"{before} before")
        skipped.append(f"{path} has all {steps} steps, but the run did not finish")
    if diverged or not resume.auto:
        hint = "start a new run with a lower --lr" if diverged else "auto with --run_id starts a new run instead"
        raise UserError(
            f"{FLAG}: got {resume.file or resume.folder}, expected a checkpoint to resume from; {'; '.join(skipped)}; "
            f"{hint}"
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
        print(f"warning: {'; '.join([*skipped, action])}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Shares:
    """How the images of an optimizer step are shared out. A run depends on what one loss sees, not on who sees it."""

    processes: int
    batch: int  # images per process and batch
    batches: int  # that share a loss
    losses: int  # per optimizer step

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Self:
        """Those of a run, from what its checkpoints say (`checkpoint_metadata`)."""
        config = metadata["config"]
        accumulate = config["optim"].get("accumulate", 1)
        exact = config["optim"].get("exact_negatives", False)
        joined = exact and METHODS[config["method"]["method"]].compares_images
        batches = accumulate if joined else 1
        return cls(metadata["processes"], config["data"]["batch_size"], batches, accumulate // batches)

    @property
    def images(self) -> int:
        """That one loss sees."""
        return self.processes * self.batch * self.batches

    def __str__(self) -> str:
        count = f"{self.processes} process" if self.processes == 1 else f"{self.processes} processes"
        batches = self.batches * self.losses
        return f"{count} of {self.batch} images" + (f" x {batches} batches" if batches > 1 else "")


def _refuse_other_shares(before: Shares, now: Shares, depends_on_processes: str, normalises: bool, path: Path) -> None:
    """UserError unless loss and batch norms see the images that they would have seen, on whatever processes."""
    if now.losses != before.losses:
        raise UserError(
            f"--accumulate: got {now.losses}, expected {before.losses} as in {path}: a run resumes with as many "
            "losses per optimizer step"
        )
    if normalises and now.batches != before.batches:
        raise UserError(
            f"--accumulate: got {now.batches}, expected {before.batches} as in {path}: the backbone normalises each "
            "batch by itself"
        )
    if now.images != before.images:
        others = now.processes * now.batches
        wanted = before.images // others
        fits = before.images % others == 0 and wanted >= 2
        flag, got = ("--batch_size", now.batch) if fits else ("--devices", now.processes)
        expected = f"--batch_size {wanted}" if fits else f"a number of processes that divides {before.images}"
        raise UserError(
            f"{flag}: got {got} on {now}, expected {expected}: one loss sees {before.images} images, as in {path} with "
            f"{before}"
        )
    if now.processes != before.processes and depends_on_processes:
        raise UserError(
            f"--devices: got {now.processes} processes, expected {before.processes} as in {path}: "
            f"{depends_on_processes}"
        )


def _refuse_other_data(saved: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    """UserError if the images, the processes or the program differ from those of the run."""
    flags = {
        "program": FLAG, "schema": FLAG, "images": "--train_dir", "classes": "--train_dir", "norm": "--train_dir",
    }  # fmt: skip
    for name, flag in flags.items():
        if saved.get(name) != current[name]:
            raise UserError(
                f"{flag}: got {name} {current[name]}, expected {saved.get(name)} as in {path}; a run resumes with the "
                "same images"
            )


def _refuse_other_order(saved: Mapping[str, Any], path: Path) -> None:
    """UserError if the version that wrote the checkpoint had another order of images: the epoch would be a mixture."""
    order = saved.get("order", "sorted hashes")  # its name was not stored
    if order != ORDER:
        raise UserError(
            f"{FLAG}: got {path}, whose images come in the order of an earlier version ({order}), expected {ORDER}; "
            f"finish that run with its own version, or start a new run with --init_from {path}"
        )


def _refuse_other_flags(saved: Mapping[str, Mapping[str, Any]], config: Pretrain | Linear, path: Path) -> None:
    """UserError if the checkpoint was moved between run folders, or config.json was edited."""
    saved_values = {name: value for part in saved.values() for name, value in part.items()}
    for part in vars(config).values():
        for declared in fields_of(type(part)):
            value = vars(part)[declared.name]
            saved_value = saved_values.get(declared.name, value)
            if declared.flag.resume == "same" and saved_value != value:
                raise UserError(
                    f"{declared.spelling}: got {as_typed(value)} from config.json, expected {as_typed(saved_value)} "
                    f"as in {path}"
                )


def _refuse_other_weights(saved: Collection[str], current: Collection[str], path: Path) -> None:
    """UserError if the keys of the state dict differ."""
    different = sorted(set(saved) ^ set(current))
    if different:
        raise UserError(
            f"{FLAG}: got {path}, expected the weights of this version; {len(different)} differ: {different[0]}"
        )


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
