"""Load weights into a backbone, for pretraining or evaluation: all of them or none."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cl.backbones.backbone import Backbone
from cl.backbones.layouts import COUNTER, describe_unused, find_backbone
from cl.backbones.timm import MODEL_ERRORS, check_name, create
from cl.backbones.weight_files import read_weights
from cl.config.backbone import BackboneConfig
from cl.errors import UserError

MAX_KEYS = 3  # in an error message


def load_init_from(backbone: Backbone, config: BackboneConfig, crop_size: int, channels: int) -> str:
    """Load all weights of `backbone` from the source that `--init_from` names, or raise UserError; describe them."""
    source = config.init_from or ""
    if source == "torchvision" or source.startswith("timm/"):
        tensors: Mapping[str, Any] = _download(source, config, crop_size, channels)
    else:
        tensors = read_weights(source, "--init_from").tensors
    return load_all_weights(backbone, tensors, f"--init_from: got {source}", config.encoder)


def load_all_weights(backbone: Backbone, tensors: Mapping[str, Any], given: str, encoder: str) -> str:
    """Load all weights of `backbone` from a state dict and describe the match; UserError, starting with `given`."""
    expected = backbone.state_dict()
    match = find_backbone(expected, tensors)
    missing = [key for key in expected if key not in match.weights and not key.endswith(COUNTER)]
    misshapen = [key for key, value in match.weights.items() if value.shape != expected[key].shape]
    if missing or misshapen or match.extra:
        problems = _describe_problems(missing, misshapen, match.extra)
        hint = "try another encoder" if missing or match.extra else _hint(match.weights, expected)
        raise UserError(f"{given}, expected all weights of {encoder}; {problems}; {hint}")
    backbone.load_state_dict(match.weights, strict=False)  # only counters can be missing
    counters = f" (the others are {COUNTER})" if len(match.weights) < len(expected) else ""
    prefix = f"under {match.prefix}*, " if match.prefix else ""
    matched = f"{len(match.weights)} of {len(expected)} keys of {encoder} matched{counters}: {prefix}{match.layout}"
    return f"{matched}; left over: {describe_unused(match)}"


def _describe_problems(missing: Sequence[str], misshapen: Sequence[str], extra: Sequence[str]) -> str:
    """Each kind of problem with its number of keys and the first of them."""
    kinds = {"are missing": missing, "have a different shape": misshapen, "belong to layers that it lacks": extra}
    return ", ".join(f"{len(keys)} {problem} ({_first(keys)})" for problem, keys in kinds.items() if keys)


def _first(keys: Sequence[str]) -> str:
    shown = [*keys[:MAX_KEYS], "..."] if len(keys) > MAX_KEYS else keys
    return ", ".join(shown)


def _hint(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The flag to change, according to the shape of the first layer."""
    if "pos_embed" in expected:
        return "try another --crop_size or --in_channels"
    stem = _stem_shape(given)
    expected_stem = _stem_shape(expected)
    if not stem or stem == expected_stem or len(stem) != len(expected_stem):
        return "try another encoder or --in_channels"
    outputs, channels, *kernel = stem
    if kernel != expected_stem[2:]:
        size = "small" if kernel[0] == 3 else "large"
        return f"its first convolution has {kernel[0]} x {kernel[1]} pixels, expected --stem {size}"
    if channels != expected_stem[1]:
        return f"its first convolution takes {channels} channels, expected --in_channels {channels}"
    return f"its first convolution has {outputs} outputs, expected --width {outputs}"


def _stem_shape(weights: Mapping[str, Tensor]) -> list[int]:
    return list(weights["conv1.weight"].shape) if "conv1.weight" in weights else []


def _download(source: str, config: BackboneConfig, crop_size: int, channels: int) -> dict[str, Tensor]:
    """torchvision's or timm's weights, downloaded unless they are in the user's cache."""
    if source == "torchvision" and config.timm_name is not None:
        raise UserError(f"--init_from: got torchvision with {config.encoder}, expected {config.encoder}")
    if source != "torchvision":
        check_name(source.removeprefix("timm/"), "--init_from")
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it logs its retries; we print one line
    try:
        if source == "torchvision":
            from torchvision.models import get_model

            return get_model(config.encoder, weights="DEFAULT").state_dict()
        return create(source.removeprefix("timm/"), crop_size, channels, pretrained=True).state_dict()
    except (OSError, *MODEL_ERRORS) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise UserError(
            f"--init_from: got {source}, which could not be downloaded ({reason}); expected a weight file"
        ) from None
