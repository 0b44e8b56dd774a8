"""Weights that a backbone starts from, or that are evaluated: always whole."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cl.backbones.backbone import Backbone
from cl.backbones.layouts import COUNTER, BackboneMatch, find_backbone, left_over
from cl.backbones.timm import MODEL_ERRORS, check_name, create
from cl.backbones.weight_files import read_weights
from cl.config.backbone import BackboneConfig
from cl.errors import UserError

SHOWN = 3  # keys in a refusal


def load_init_from(backbone: Backbone, config: BackboneConfig, crop_size: int, channels: int) -> str:
    """Load what `--init_from` names into `backbone`: every weight of it, or UserError. Says what was loaded."""
    named = config.init_from or ""
    if named == "torchvision" or named.startswith("timm/"):
        tensors: Mapping[str, Any] = _published(named, config, crop_size, channels)
    else:
        tensors = read_weights(named, "--init_from").tensors
    return load_all_weights(backbone, tensors, f"--init_from: got {named}", config.encoder)


def load_all_weights(backbone: Backbone, tensors: Mapping[str, Any], said: str, encoder: str) -> str:
    """Find the backbone in a state dict and load every weight of it, or UserError. Says what was found, and where."""
    wanted = backbone.state_dict()
    found = find_backbone(wanted, tensors)
    missing = [key for key in wanted if key not in found.weights and not key.endswith(COUNTER)]
    other = [key for key, value in found.weights.items() if value.shape != wanted[key].shape]
    if missing or other or found.more:
        raise UserError(f"{said}, expected all weights of {encoder}; {_wrong(found, wanted, missing, other)}")
    backbone.load_state_dict(found.weights, strict=False)  # counters alone can be missing
    place = f"under {found.prefix}*, " if found.prefix else ""
    counters = f" (the others are {COUNTER})" * (len(found.weights) < len(wanted))
    said = f"{len(found.weights)} of {len(wanted)} keys of {encoder} matched{counters}: {place}{found.layout}"
    return f"{said}; left over: {left_over(found)}"


def _wrong(found: BackboneMatch, wanted: Mapping[str, Tensor], missing: list[str], other: list[str]) -> str:
    """What is wrong in a line, with the first keys and the flag to change."""
    counts = {"are missing": missing, "have another shape": other, "belong to no layer of it": found.more}
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:SHOWN])}{', ...' * (len(keys) > SHOWN)})"
        for what, keys in counts.items()
        if keys
    ]
    return ", ".join(parts) + f"; {_hint(found, wanted) if not missing and not found.more else 'another encoder?'}"


def _hint(found: BackboneMatch, wanted: Mapping[str, Tensor]) -> str:
    """The flag that the first shape that differs speaks of."""
    if "pos_embed" in wanted:
        return "another --crop_size or --in_channels?"
    given, ours = (
        list(each["conv1.weight"].shape) if "conv1.weight" in each else [] for each in (found.weights, wanted)
    )
    if not given or given == ours or len(given) != len(ours):
        return "another encoder or --in_channels?"
    if given[2:] != ours[2:]:
        stem = "small" if given[2] == 3 else "large"
        return f"its first convolution has {given[2]} x {given[3]} pixels, expected --stem {stem}"
    if given[1] != ours[1]:
        return f"its first convolution takes {given[1]} channels, expected --in_channels {given[1]}"
    return f"its first convolution has {given[0]} outputs, expected --width {given[0]}"


def _published(named: str, config: BackboneConfig, crop_size: int, channels: int) -> dict[str, Tensor]:
    """torchvision's or timm's weights, downloaded where they are not in the user's cache."""
    if named == "torchvision" and config.timm_name is not None:
        raise UserError(f"--init_from: got torchvision with {config.encoder}, expected {config.encoder}")
    if named != "torchvision":
        check_name(named.removeprefix("timm/"), "--init_from")
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # its retries are lines beside our one
    try:
        if named == "torchvision":
            from torchvision.models import get_model

            return get_model(config.encoder, weights="DEFAULT").state_dict()
        return create(named.removeprefix("timm/"), crop_size, channels, pretrained=True).state_dict()
    except (OSError, *MODEL_ERRORS) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(
            f"--init_from: got {named}, which could not be downloaded ({reason}); expected a file"
        ) from None
