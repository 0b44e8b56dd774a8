"""Backbones: images in, features out."""

from collections.abc import Mapping

from cl.backbones.backbone import Backbone
from cl.backbones.resnet import ResNetBackbone
from cl.backbones.timm import timm_backbone
from cl.config.backbone import BackboneConfig
from cl.config.views import Size

__all__ = ["Backbone", "build_backbone"]


def build_backbone(
    config: BackboneConfig, crop_size: Size, channels: int = 3, other_sizes: Mapping[str, Size] = {}
) -> Backbone:
    """Build the network that the flags name for views of `crop_size` pixels, and of `other_sizes` (by flag)."""
    if config.timm_name is None:
        return ResNetBackbone(config, crop_size, channels)  # takes any size
    return timm_backbone(config, crop_size, channels, other_sizes)
