"""timm's networks without their classifier; timm is only imported when it is needed."""

import difflib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from cl.backbones.backbone import Backbone
from cl.config.backbone import BackboneConfig, EncoderConfig
from cl.config.views import Size, in_pixels, sides
from cl.errors import UserError

MODEL_ERRORS = (AssertionError, ArithmeticError, RuntimeError, ValueError)  # raised by networks for unsupported sizes

OPTIONS = {"patch_size": "patch_size", "drop_path": "drop_path_rate"}  # flag -> timm's argument
WHAT = {"patch_size": "patches", "drop_path": "residual branches"}


def timm_backbone(config: BackboneConfig, crop_size: Size, channels: int, other_sizes: Mapping[str, Size]) -> Backbone:
    """Build timm's network for views of `crop_size` pixels, and check that it accepts `other_sizes` (by flag) too."""
    name = config.timm_name or ""
    flag = "crop_size"
    size = crop_size
    try:
        net = create(name, crop_size, channels, options=_options(config)).eval()
        features = _count_features(net, name, crop_size, channels)
        for flag, size in other_sizes.items():  # noqa: B007  (the refusal names the flag)
            _count_features(net, name, size, channels)
    except TypeError as error:
        refused = [flag for flag, option in OPTIONS.items() if f"'{option}'" in str(error)]
        if not refused:
            raise
        raise _without_option(refused[0], config) from None
    except MODEL_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"--{flag}: got views of {in_pixels(size)}, expected a size that timm/{name} accepts ({reason})"
        ) from None
    if config.drop_path and not any(vars(module).get("drop_prob") for module in net.modules()):
        raise _without_option("drop_path", config)
    backbone = cast(Backbone, net.train())
    backbone.num_features = features  # timm's own value is wrong for its MobileNets: 576, but their head returns 1024
    return backbone


def _options(config: BackboneConfig) -> dict[str, Any]:
    """What is not as the name of the network says, as arguments for timm."""
    return {option: vars(config)[flag] for flag, option in OPTIONS.items() if vars(config)[flag]}


def _without_option(flag: str, config: BackboneConfig) -> UserError:
    return UserError(
        f"--{flag}: got {vars(config)[flag]:g}, expected it without {config.encoder}, whose {WHAT[flag]} cannot be set"
    )


def check_encoder(config: EncoderConfig) -> None:
    """Raise UserError if the encoder is named as a timm network but unknown to timm."""
    if config.timm_name is not None:
        check_name(config.timm_name, "encoder")


def check_name(name: str, flag: str) -> None:
    """Raise UserError with similar names unless timm has a network `name`, with or without a tag of weights."""
    import timm

    available = sorted({*timm.list_models(), *timm.list_pretrained()})
    if name not in available:
        similar = [f"timm/{match}" for match in difflib.get_close_matches(name, available, n=3)]
        hint = f"did you mean {' or '.join(similar)}?" if similar else "timm.list_models() lists all names"
        raise UserError(f"{flag}: got timm/{name}, which timm {timm.__version__} does not have; {hint}")


def create(
    name: str, crop_size: Size, channels: int, pretrained: bool = False, options: Mapping[str, Any] = {}
) -> nn.Module:
    """Create timm's network; one with a fixed image size gets `crop_size`, and accepts other sizes if it can."""
    import timm

    size_arguments: tuple[dict[str, Any], ...] = (
        {"img_size": crop_size, "dynamic_img_size": True},
        {"img_size": crop_size},
        {},
    )
    for size in size_arguments:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **size, **options)
        except TypeError as error:
            if not size or "unexpected keyword argument" not in str(error):
                raise
    raise AssertionError("unreachable: without size arguments every TypeError is raised")


def patch_embedding(network: nn.Module) -> nn.Module | None:
    """What makes the tokens of a vision transformer of timm; None for a network without."""
    return dict(network.named_children()).get("patch_embed")


def freeze_patches(network: nn.Module) -> None:
    """Freeze the linear map from patches to tokens; a stem of several layers, or none, is left alone."""
    embedding = patch_embedding(network)
    if embedding is None:
        return
    from timm.layers.patch_embed import PatchEmbed

    if isinstance(embedding, PatchEmbed):
        embedding.proj.requires_grad_(False)


def _count_features(net: nn.Module, name: str, size: Size, channels: int) -> int:
    """The number of features that the network returns for an image of `size` pixels."""
    with torch.no_grad():
        features = net(torch.zeros(1, channels, *sides(size)))
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(f"encoder: got timm/{name}, which has no pooled features; expected a network that has them")
    return features.shape[1]
