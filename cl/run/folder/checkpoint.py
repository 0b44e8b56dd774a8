"""Checkpoints: tensors and plain Python, written beside their place, checked and moved into it; the last two stay."""

import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import CheckpointIO

from cl.config.programs import Linear, Pretrain
from cl.config.resume import LAST, PREVIOUS
from cl.data.images import Splits
from cl.distributed import world_size
from cl.run.folder.atomic_files import write_or_stop
from cl.run.folder.run_folder import SCHEMA, point_latest


class AtomicCheckpointIO(CheckpointIO):
    """A checkpoint appears whole or not at all.

    Lightning's own way goes through TMPDIR, which may be another disk, and goes on after a PermissionError
    (Lightning#21800).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        def ready(beside: Path) -> None:
            verify_checkpoint(beside)
            if place.exists():
                os.replace(place, place.with_name(PREVIOUS))

        place = Path(path)
        write_or_stop(place, lambda file: _fill(file, checkpoint), ready)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def _fill(file: BinaryIO, checkpoint: dict[str, Any]) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's writer hides what the file said
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def verify_checkpoint(path: Path) -> None:
    """OSError unless all of a file that torch.save wrote is there: its records have checksums."""
    try:
        with zipfile.ZipFile(path) as opened:
            broken = opened.testzip()
    except zipfile.BadZipFile as error:
        raise OSError(f"{path.name} is not whole: {error}") from None
    if broken is not None:
        raise OSError(f"{path.name} is not whole: {broken} was changed")


def facts_of(config: Pretrain | Linear, splits: Splits) -> dict[str, Any]:
    """What a user of the weights, and a run that goes on, must know."""
    return {
        "schema": SCHEMA,
        "program": type(config).__name__,
        "config": asdict(config),
        "classes": splits.classes,
        "norm": splits.norm,
        "images": len(splits.train),
        "processes": world_size(),
    }


def within_epoch(trainer: Trainer) -> bool:
    """Whether another step of this epoch follows; after the last one come its evaluation and a checkpoint of both."""
    return not (trainer.is_last_batch or trainer.should_stop)


class SaveLast(Checkpoint):
    """`last.ckpt` after every epoch and `every` so many steps, with its facts; `latest` points to what has one."""

    def __init__(self, folder: Path, config: Pretrain | Linear, splits: Splits) -> None:
        self.path = folder / LAST
        self.facts = facts_of(config, splits)
        self.every = config.run.checkpoint_every_n_steps
        self._saved = 0  # the step of the newest one

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        # The step changes with the last of --accumulate batches.
        due = self.every and trainer.global_step > self._saved and trainer.global_step % self.every == 0
        if due and within_epoch(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """All processes have to call it."""
        self._saved = trainer.global_step
        trainer.save_checkpoint(self.path)
        if self.facts["program"] == "Pretrain" and trainer.is_global_zero:
            point_latest(self.path.parent)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["cl"] = self.facts
