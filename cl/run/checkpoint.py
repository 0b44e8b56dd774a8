"""Checkpoints: tensors and plain Python only, written beside their place and moved into it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import CheckpointIO

from cl.backbones.read import LAST
from cl.config.programs import Linear, Pretrain
from cl.data.image_sets import Splits
from cl.run.export import whole
from cl.run.folder import SCHEMA, point_latest


class AtomicCheckpointIO(CheckpointIO):
    """A checkpoint appears whole or not at all. Lightning's own way goes through TMPDIR, which may be another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with whole(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def facts_of(config: Pretrain | Linear, splits: Splits) -> dict[str, Any]:
    """What a user of the weights must know."""
    return {
        "schema": SCHEMA,
        "program": type(config).__name__,
        "config": asdict(config),
        "classes": splits.classes,
        "norm": splits.norm,
    }


class SaveLast(Checkpoint):
    """`last.ckpt` after every epoch, with its facts; `latest` points to what has one."""

    def __init__(self, folder: Path, config: Pretrain | Linear, splits: Splits) -> None:
        self.path = folder / LAST
        self.facts = facts_of(config, splits)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        if self.facts["program"] == "Pretrain" and trainer.is_global_zero:
            point_latest(self.path.parent)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["cl"] = self.facts
