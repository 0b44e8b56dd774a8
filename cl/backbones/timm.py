"""timm's networks without their classifier; timm is imported when one is asked for."""

import difflib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from cl.backbones.backbone import Backbone
from cl.config.backbone import EncoderConfig
from cl.errors import UserError

MODEL_ERRORS = (
    AssertionError,
    ArithmeticError,
    RuntimeError,
    ValueError,
)  # what networks raise for sizes they do not take


def timm_backbone(name: str, crop_size: int, channels: int, other_sizes: Mapping[str, int]) -> Backbone:
    """The network `name` for views of `crop_size` pixels; those and the sizes of `other_sizes`, by flag, are tried out."""
    flag = "crop_size"
    size = crop_size
    try:
        net = create(name, crop_size, channels).eval()
        features = _features(net, name, crop_size, channels)
        for flag, size in other_sizes.items():  # noqa: B007  (the refusal names the flag)
            _features(net, name, size, channels)
    except MODEL_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"--{flag}: got views of {size} pixels, expected ones that timm/{name} takes ({reason})"
        ) from None
    backbone = cast(Backbone, net.train())
    backbone.num_features = features  # timm's own is not what its MobileNets return: 576, but 1024 after their head
    return backbone


def check_encoder(config: EncoderConfig) -> None:
    """UserError if the encoder is a network of timm that timm does not have."""
    if config.timm_name is not None:
        check_name(config.timm_name, "encoder")


def check_name(name: str, said: str) -> None:
    """UserError with the nearest names unless timm has a network `name`, with or without the tag of its weights."""
    import timm

    known = sorted({*timm.list_models(), *timm.list_pretrained()})
    if name not in known:
        near = [f"timm/{each}" for each in difflib.get_close_matches(name, known, n=3)]
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has its names"
        raise UserError(f"{said}: got timm/{name}, which timm {timm.__version__} does not have; {hint}")


def create(name: str, crop_size: int, channels: int, pretrained: bool = False) -> nn.Module:
    """timm's own network; where it is built for one size of images, for this one, and for others if it can be."""
    import timm

    ways: tuple[dict[str, Any], ...] = ({"img_size": crop_size, "dynamic_img_size": True}, {"img_size": crop_size}, {})
    for size in ways:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **size)
        except TypeError as error:
            if not size or "unexpected keyword argument" not in str(error):
                raise
    raise AssertionError("the last way has no size that a network could refuse")


def _features(net: nn.Module, name: str, size: int, channels: int) -> int:
    """How many features the network returns of an image of `size` pixels."""
    with torch.no_grad():
        features = net(torch.zeros(1, channels, size, size))
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(f"encoder: got timm/{name}, which has no pooled features; expected a network that has")
    return features.shape[1]
