"""Weights that a backbone starts from, or that are evaluated: always whole, never unpickled into code."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor

from cl.backbones.resnet import Backbone
from cl.config.backbone import BackboneConfig
from cl.errors import UserError

LAST = "last.ckpt"  # the newest checkpoint of a run folder
PREFIX = "backbone."  # of the backbone in this toolkit's checkpoints


def read_checkpoint(named: str, flag: str) -> tuple[Path, dict[str, Any]]:
    """The content of a run folder's newest checkpoint, or of a file; UserError names the flag."""
    try:
        file = Path(named) / LAST if Path(named).is_dir() else Path(named)
        there = file.is_file()
    except OSError as error:
        raise UserError(f"--{flag}: got {named}, which cannot be looked up ({error.strerror})") from None
    if not there:
        raise UserError(f"--{flag}: got {named}, expected a run folder or a file of weights; there is no {file}")
    try:
        with warnings.catch_warnings():  # torch warns of what it then refuses
            warnings.simplefilter("ignore")
            content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # what torch raises for bytes that are no checkpoint is open: IndexError, EOFError, ...
        raise UserError(f"--{flag}: got {named}; {file} cannot be read as weights ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise UserError(
            f"--{flag}: got {named}; {file} cannot be read as weights (it holds a {type(content).__name__})"
        )
    return file, content


def start_from(backbone: Backbone, config: BackboneConfig) -> None:
    """Load what `--init_from` names into `backbone`: every weight of it, or UserError."""
    named = config.init_from or ""
    if named == "torchvision" or named.startswith("timm/"):
        weights = _published(named, config.encoder)
    else:
        _, content = read_checkpoint(named, "init_from")
        weights = backbone_weights(content.get("state_dict", content))
    load_whole(backbone, weights, f"--init_from: got {named}")


def backbone_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's part of a state dict: what has our prefix, else all of it."""
    ours = {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}
    return ours or dict(weights)


def load_whole(backbone: Backbone, weights: Mapping[str, Any], said: str) -> None:
    """Every weight of the backbone, with its shape, or UserError that lists what is wrong; a classifier is left out."""
    wanted = backbone.state_dict()
    missing = [key for key in wanted if key not in weights]
    found = {key: weights[key] for key in wanted if key in weights}
    others = [key for key, value in found.items() if not isinstance(value, Tensor) or value.shape != wanted[key].shape]
    if missing or others:
        wrong = ", ".join((missing + others)[:3])
        raise UserError(
            f"{said}, expected all {len(wanted)} weights of this backbone: {len(missing)} are missing, {len(others)} "
            f"have another shape ({wrong}); the same encoder, --stem, --width and --in_channels?"
        )
    backbone.load_state_dict(found)


def _published(named: str, encoder: str) -> dict[str, Tensor]:
    """torchvision's or timm's weights, downloaded where they are not in the user's cache."""
    try:
        if named == "torchvision":
            from torchvision.models import get_model

            return get_model(encoder, weights="DEFAULT").state_dict()
        import timm

        return timm.create_model(named.removeprefix("timm/"), pretrained=True).state_dict()
    except (URLError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(
            f"--init_from: got {named}, which could not be downloaded ({reason}); expected a file"
        ) from None
