"""Checkpoints of tensors and plain Python, written atomically and verified; the last two are kept."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import CheckpointIO
from torch import Tensor

from cl.config.programs import Linear, Pretrain
from cl.config.resume import LAST, PREVIOUS
from cl.config.run import LATEST
from cl.data.images import Splits
from cl.data.order.permutation import ORDER
from cl.distributed import on_any_rank, stop_together, world_size
from cl.errors import NOT_FINITE, warn
from cl.nn.finite import describe_non_finite, non_finite
from cl.run.folder.atomic_files import write_or_stop
from cl.run.folder.run_folder import SCHEMA, point_latest


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints completely or not at all.

    Lightning's own plugin writes through TMPDIR, which may be on another disk, and ignores a PermissionError
    (Lightning#21800).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)

        def verify_and_keep_previous(temporary: Path) -> None:
            verify_checkpoint(temporary)
            if target.exists():
                os.replace(target, target.with_name(PREVIOUS))

        write_or_stop(target, lambda file: _save(checkpoint, file), verify_and_keep_previous)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's writer hides the OSError of the file
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def verify_checkpoint(path: Path) -> None:
    """Raise OSError if a file written by torch.save is truncated or its records do not match their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged_record = archive.testzip()
    except zipfile.BadZipFile as error:
        raise OSError(f"{path.name} is incomplete: {error}") from None
    if damaged_record is not None:
        raise OSError(f"{path.name} is damaged: the checksum of {damaged_record} does not match")


def checkpoint_metadata(config: Pretrain | Linear, splits: Splits) -> dict[str, Any]:
    """What a checkpoint stores for resuming the run and for using its weights."""
    return {
        "schema": SCHEMA,
        "program": type(config).__name__,
        "config": asdict(config),
        "classes": splits.classes,
        "norm": splits.norm,
        "norm_origin": splits.norm_origin,
        "images": len(splits.train),
        "processes": world_size(),
        "order": ORDER,
        "evaluated": config.method.evaluated if isinstance(config, Pretrain) else "backbone",
    }


def diverged_weights(state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """What is not finite in a module's state, apart from heads of a linear evaluation: some of a grid may diverge."""
    return non_finite({name: value for name, value in state_dict.items() if not name.startswith("heads.")})


def within_epoch(trainer: Trainer) -> bool:
    """Whether another step of this epoch follows; the last step is saved with its epoch, after the evaluation."""
    return not (trainer.is_last_batch or trainer.should_stop)


class SaveLast(Checkpoint):
    """Saves `last.ckpt` after every epoch and every `every` steps, and points `latest` to a pretraining run."""

    def __init__(self, folder: Path, config: Pretrain | Linear, splits: Splits) -> None:
        self.path = folder / LAST
        self.metadata = checkpoint_metadata(config, splits)
        self.every = config.run.checkpoint_every_n_steps
        self._saved_step = 0
        self._warned = False  # that `latest` cannot be written

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        # With --accumulate, several batches share one global step.
        due = self.every and trainer.global_step > self._saved_step and trainer.global_step % self.every == 0
        if due and within_epoch(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save a checkpoint, unless its weights are not finite. A collective: all processes must call it."""
        self._refuse_non_finite(trainer)
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self.path)
        if self.metadata["program"] == "Pretrain" and trainer.is_global_zero:
            self._point_latest()

    def _point_latest(self) -> None:
        """The link is a convenience: where it cannot be written, the run goes on, with one warning."""
        try:
            point_latest(self.path.parent)
        except OSError as error:
            if not self._warned:
                warn(f"{self.path.parents[1] / LATEST} does not point to this run ({error.strerror})")
            self._warned = True

    def _refuse_non_finite(self, trainer: Trainer) -> None:
        problems = diverged_weights(trainer.lightning_module.state_dict())
        if on_any_rank(bool(problems)):
            cause = describe_non_finite(problems) if problems else "a weight of another process"
            message = (
                f"not finite after step {trainer.global_step}: {cause}; no checkpoint was written, an earlier one is "
                "kept. Try a lower --lr or --precision 32"
            )
            stop_together(message, NOT_FINITE)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["cl"] = self.metadata
