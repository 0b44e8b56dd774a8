"""Defaults that depend on the data set or the method, keyed by field name. A typed flag beats the data set's preset,
that beats the method's, and that the field's own default."""

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]

# 8-pixel digits: a flip makes another digit (2, 5) and a small crop cuts the strokes that tell 3 from 8, so views are
# crops from half of the area with a light change of intensity.
# CIFAR: no blur (SimCLR, appendix B.9); rate and decay are lightly's benchmark recipe (0.06 per 128 images, 5e-4).
_CIFAR: Preset = {"crop_size": 32, "gaussian_prob": 0.0, "lr": 0.12, "weight_decay": 5e-4, "epochs": 200}
PRETRAIN_DATASETS: Mapping[str, Preset] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "stl10": {"crop_size": 96},
    "digits": {
        "crop_size": 8,
        "min_scale": 0.5,
        "flip_prob": 0.0,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.0,
        "hue": 0.0,
        "grey_prob": 0.0,
        "gaussian_prob": 0.0,
        "optimizer": "adamw",
        "lr": 1e-3,
        "classifier_lr": 1e-2,
        "epochs": 12,
        "num_workers": 0,
    },
}
PRETRAIN_METHODS: Mapping[str, Preset] = {}

LINEAR_DATASETS: Mapping[str, Preset] = {
    "cifar10": {"crop_size": 32, "weight_decay": 0.0},
    "cifar100": {"crop_size": 32, "weight_decay": 0.0},
    "stl10": {"crop_size": 96, "weight_decay": 0.0},
    "imagenet100": {"weight_decay": 0.0},
    "imagenet": {"weight_decay": 0.0},
    "custom": {"weight_decay": 0.0},
    "digits": {
        "crop_size": 8,
        "min_scale": 0.8,
        "flip_prob": 0.0,
        "lr": 0.03,
        "weight_decay": 0.0,
        "epochs": 20,
        "num_workers": 0,
    },
}
