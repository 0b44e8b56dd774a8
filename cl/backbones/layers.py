"""The layers of a backbone, for rates that fall from its output to its input."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from cl.backbones.backbone import Backbone
from cl.backbones.resnet import ResNetBackbone

STAGES = re.compile(r"layer(\d+)\.")  # of torchvision's ResNets; their other parameters are the stem


def layers_of(backbone: Backbone) -> list[list[nn.Parameter]] | None:
    """All parameters of a backbone, from its first layer to its last; None if timm does not group them.

    A ResNet's layers are its stem and its stages, as in timm's coarse grouping; those of another network of timm are as
    timm groups them: of a vision transformer the embedding and each block, the final norm with the last one.
    """
    if isinstance(backbone, ResNetBackbone):
        return _by_number({name: _stage(name) for name, _ in backbone.named_parameters()}, backbone)
    from timm.models import group_parameters
    from timm.models.resnet import ResNet
    from timm.models.resnetv2 import ResNetV2

    network: Any = backbone
    if not hasattr(network, "group_matcher"):
        return None
    matcher = network.group_matcher(coarse=isinstance(backbone, ResNet | ResNetV2))
    return _by_number(group_parameters(backbone, matcher, reverse=True), backbone)


def _stage(name: str) -> int:
    stage = STAGES.match(name)
    return int(stage[1]) if stage else 0


def _by_number(numbers: Mapping[str, int], backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each number, smallest first, in the backbone's order."""
    layers: dict[int, list[nn.Parameter]] = {number: [] for number in sorted(set(numbers.values()))}
    for name, parameter in backbone.named_parameters():
        layers[numbers[name]].append(parameter)
    return list(layers.values())
