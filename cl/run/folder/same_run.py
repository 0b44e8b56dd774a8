"""Whether a checkpoint belongs to the run that wants to resume from it; otherwise a refusal names the flag."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from cl.config.flags import as_typed, fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain
from cl.config.resume import FLAG
from cl.data.images import Splits
from cl.data.order.permutation import ORDER
from cl.errors import UserError
from cl.run.folder.checkpoint import checkpoint_metadata

IMAGES = ("--train_dir", "the same images")
KEPT = {  # what a run keeps -> the flag that may have changed it, and what the run resumes with
    "program": (FLAG, "the program that began it"),
    "schema": (FLAG, "the version of cl that began it"),
    "images": IMAGES,
    "classes": IMAGES,
    "norm": IMAGES,
}


@dataclass(frozen=True)
class Identity:
    """What a run is, as far as its checkpoints must agree with it."""

    config: Pretrain | Linear
    splits: Splits
    weights: Collection[str]  # the keys of the module's state dict
    depends_on_processes: str  # what keeps it from going on with another number of processes; "" if nothing does
    normalises: bool  # whether the backbone compares the images of a batch, by batch norm

    @property
    def metadata(self) -> dict[str, Any]:
        return checkpoint_metadata(self.config, self.splits)


def refuse_another_run(saved: Mapping[str, Any], weights: Collection[str], run: Identity, path: Path) -> None:
    """UserError unless the checkpoint `path` with the metadata `saved` and these weights is of `run`."""
    current = run.metadata
    _refuse_other_order(saved, path)
    refuse_other_data(saved, current, path)
    _refuse_other_shares(Shares.of(saved), Shares.of(current), run, path)
    _refuse_other_flags(saved["config"], run.config, path)
    _refuse_other_weights(weights, run.weights, path)


def change_of_shares(saved: Mapping[str, Any], run: Identity) -> str:
    """How the images of a step were shared out before, if otherwise."""
    before = Shares.of(saved)
    return "" if before == Shares.of(run.metadata) else f"{before} before"


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


def _refuse_other_shares(before: Shares, now: Shares, run: Identity, path: Path) -> None:
    """UserError unless loss and batch norms see the images that they would have seen, on whatever processes."""
    if now.losses != before.losses:
        raise UserError(
            f"--accumulate: got {now.losses}, expected {before.losses} as in {path}: a run resumes with as many "
            "losses per optimizer step"
        )
    if run.normalises and now.batches != before.batches:
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
    if now.processes != before.processes and run.depends_on_processes:
        raise UserError(
            f"--devices: got {now.processes} processes, expected {before.processes} as in {path}: "
            f"{run.depends_on_processes}"
        )


def refuse_other_data(saved: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    """UserError if the program, the version or the images differ from those of the run."""
    for name, (flag, reason) in KEPT.items():
        now = current[name]
        before = saved.get(name)
        if now != before:
            raise UserError(f"{flag}: {_difference(name, now, before, f'as in {path}')}; a run resumes with {reason}")


def _difference(name: str, now: Any, before: Any, where: str) -> str:
    """What differs; of lists, which may be long, the lengths and the first items that differ."""
    if name in ("program", "schema"):
        return f"got {name} {now}, expected {before} {where}"
    if name == "images":
        return f"got {now} images, expected {before} {where}"
    if name == "norm":
        name = "means and stds"
        now, before = (sum(each, ()) for each in (now, before))
    pairs = enumerate(zip_longest(now, before, fillvalue="none"), start=1)
    number, (got, expected) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    first = f"number {number} is {got}, expected {expected}"
    return f"got {len(now)} {name}, expected {len(before)} {where} ({first})"


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
