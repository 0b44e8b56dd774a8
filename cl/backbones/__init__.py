"""Backbones: images in, features out."""

from cl.backbones.resnet import Backbone, build_backbone

__all__ = ["Backbone", "build_backbone"]
