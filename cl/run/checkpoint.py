"""Checkpoints: tensors and plain Python only, written beside their place and moved into it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import CheckpointIO

from cl.backbones import Backbone, build_backbone
from cl.backbones.weights import LAST, backbone_weights, load_whole, read_checkpoint
from cl.config.backbone import BackboneConfig
from cl.config.programs import Linear, Pretrain
from cl.data.image_sets import Splits
from cl.data.view_spec import Norm
from cl.errors import UserError
from cl.run.folder import SCHEMA, point_latest


class AtomicCheckpointIO(CheckpointIO):
    """A checkpoint appears whole or not at all. Lightning's own way goes through TMPDIR, which may be another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        place = Path(path)
        beside = place.with_name(f".{place.name}-{os.getpid()}")
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class SaveLast(Checkpoint):
    """`last.ckpt` after every epoch, with what a user of the weights must know; `latest` points to what has one."""

    def __init__(self, folder: Path, config: Pretrain | Linear, splits: Splits) -> None:
        self.path = folder / LAST
        self.facts = {
            "schema": SCHEMA,
            "program": type(config).__name__,
            "config": asdict(config),
            "classes": splits.classes,
            "norm": splits.norm,
        }

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        if self.facts["program"] == "Pretrain" and trainer.is_global_zero:
            point_latest(self.path.parent)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["cl"] = self.facts


class Pretrained(NamedTuple):
    """A backbone, the normalisation that it was trained with, and the side of its views."""

    backbone: Backbone
    norm: Norm
    crop_size: int


def load_pretrained(config: Linear) -> Pretrained:
    """What `--pretrained_feature_extractor` names, as it was trained."""
    flag, named = "pretrained_feature_extractor", config.linear.pretrained_feature_extractor or ""
    file, content = read_checkpoint(named, flag)
    said = f"--{flag}: got {named}; {file} is no checkpoint of main_contrastive.py"
    try:
        facts, weights = content["cl"], dict(content["state_dict"])
        schema, program = facts["schema"], facts["program"]
        size, channels = int(facts["config"]["views"]["crop_size"]), int(facts["config"]["data"]["in_channels"])
        mean, std = (tuple(map(float, each)) for each in facts["norm"])
        backbone_config = BackboneConfig.from_dict(facts["config"]["backbone"]) if program == "Pretrain" else None
    except (KeyError, TypeError, ValueError, UserError):
        raise UserError(said) from None
    if schema != SCHEMA or backbone_config is None:
        raise UserError(f"{said} (it says program {program}, schema {schema}; expected Pretrain and {SCHEMA})")
    if config.backbone.encoder != backbone_config.encoder:
        raise UserError(
            f"encoder: got {config.backbone.encoder}, expected {backbone_config.encoder}, which {file} holds"
        )
    if config.data.in_channels != channels:
        raise UserError(f"--in_channels: got {config.data.in_channels}, expected {channels}, which the backbone takes")
    backbone = build_backbone(backbone_config, size, channels)
    load_whole(backbone, backbone_weights(weights), f"--{flag}: got {named}")
    return Pretrained(backbone, (mean, std), size)
