"""Load weights into a backbone, for pretraining or evaluation: all of them or none."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cl.backbones.backbone import Backbone
from cl.backbones.choice import FLAG, choose_network, describe_choice
from cl.backbones.layouts import COUNTER, PLAIN, BackboneMatch, describe_content, describe_unused
from cl.backbones.timm import MODEL_ERRORS, check_name, create
from cl.backbones.weight_files import read_weights
from cl.config.backbone import BackboneConfig, is_path
from cl.config.views import Size, sides
from cl.errors import UserError
from cl.nn.finite import describe_non_finite, measurable, non_finite

MAX_KEYS = 3  # in an error message


def load_init_from(backbone: Backbone, config: BackboneConfig, crop_size: Size, channels: int) -> str:
    """Load all weights of `backbone` from the source that `--init_from` names, or raise UserError; describe them."""
    source = config.init_from or ""
    if not is_path(source):
        tensors: Mapping[str, Any] = _download(source, config, crop_size, channels)
        given = f"--init_from: got {source}"
        key = None
        trained = None
    else:
        weights = read_weights(source, "--init_from")
        tensors = weights.tensors
        given = weights.given
        key = config.weights_key or weights.evaluated
        trained = weights.encoder
    report = load_all_weights(backbone, tensors, given, config.encoder, key, trained)
    check_features(backbone, crop_size, channels, given)
    return report


def load_all_weights(
    backbone: Backbone,
    tensors: Mapping[str, Any],
    given: str,
    encoder: str,
    key: str | None = None,
    trained: str | None = None,
) -> str:
    """Load all weights of `backbone` from the content of a file and describe the match.

    `key` chooses among several networks; `trained` is the encoder that they are of, where that is known. UserError,
    starting with `given`, if a weight is missing or not finite.
    """
    expected = backbone.state_dict()
    match, paths = choose_network(expected, tensors, key, given)
    missing = [name for name in expected if name not in match.weights and not name.endswith(COUNTER)]
    misshapen = [name for name, value in match.weights.items() if value.shape != expected[name].shape]
    if missing or misshapen or match.extra:
        problems = _describe_problems(missing, misshapen, match.extra)
        another = f"they are of {trained}" if trained not in (None, encoder) else "try another encoder"
        hint = another if missing or match.extra else _hint(match.weights, expected)
        others = f"; taken: {match.path} of {', '.join(paths)} ({FLAG})" if len(paths) > 1 else ""
        raise UserError(
            f"{given}, expected all weights of {encoder}; {problems}; {hint}{others}; "
            f"the file has {describe_content(tensors)}"
        )
    retyped = [n for n, v in match.weights.items() if v.is_floating_point() != expected[n].is_floating_point()]
    if retyped:
        found = f"{retyped[0]} is {match.weights[retyped[0]].dtype}"
        raise UserError(f"{given}, expected floating-point weights; {len(retyped)} are of another type: {found}")
    backbone.load_state_dict(_finite(match, expected, given), strict=False)  # only counters can be missing
    counters = f" (the others are {COUNTER})" if len(match.weights) < len(expected) else ""
    place = match.prefix if match.state_dict in PLAIN else f"{match.path}."
    prefix = f"under {place}*, " if place else ""
    matched = f"{len(match.weights)} of {len(expected)} keys of {encoder} matched{counters}: {prefix}{match.layout}"
    return f"{matched}{describe_choice(match, paths)}; left over: {describe_unused(match)}"


def _finite(match: BackboneMatch, expected: Mapping[str, Tensor], given: str) -> dict[str, Tensor]:
    """The weights in the backbone's own types; UserError names those that are not finite then."""
    weights = {name: value.to(expected[name].dtype) for name, value in match.weights.items()}
    place = "" if match.state_dict in PLAIN else f"{match.state_dict}."
    problems = {f"{place}{match.keys[name]}": problem for name, problem in non_finite(weights).items()}
    if problems:
        raise UserError(f"{given}, expected finite weights; not finite: {describe_non_finite(problems)}")
    return weights


def check_features(backbone: Backbone, size: Size, channels: int, given: str) -> None:
    """UserError unless features of random images are finite: finite weights can be so large that they overflow."""
    images = torch.randn(2, channels, *sides(size), generator=torch.Generator().manual_seed(0))
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(images)
    backbone.train(training)
    if not measurable(features).all():
        sizes = {name: float(value.detach().abs().max()) for name, value in backbone.named_parameters()}
        largest = max(sizes, key=lambda name: sizes[name])
        raise UserError(
            f"{given}, expected weights that give finite features; those of random images are not finite (the largest "
            f"weight is {sizes[largest]:.3g}, in {largest})"
        )


def _describe_problems(missing: Sequence[str], misshapen: Sequence[str], extra: Sequence[str]) -> str:
    """Each kind of problem with its number of keys and the first of them."""
    kinds = {"missing": missing, "of another shape": misshapen, "of layers that the encoder does not have": extra}
    return "; ".join(f"{kind}: {len(keys)} ({_first(keys)})" for kind, keys in kinds.items() if keys)


def _first(keys: Sequence[str]) -> str:
    shown = [*keys[:MAX_KEYS], "..."] if len(keys) > MAX_KEYS else keys
    return ", ".join(shown)


def _hint(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The flag to change, according to the shape of the first layer."""
    if "pos_embed" in expected:
        return "try another --crop_size, --patch_size or --in_channels"
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


def _download(source: str, config: BackboneConfig, crop_size: Size, channels: int) -> dict[str, Tensor]:
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
