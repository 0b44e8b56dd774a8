"""Defaults that depend on the data set or the method, keyed by field name. A typed flag beats the data set's preset,
that beats the method's, and that the field's own default."""

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]

# 8-pixel digits: a flip makes another digit (2, 5) and a small crop cuts the strokes that tell 3 from 8, so views are
# crops from half of the area with a light change of intensity.
PRETRAIN_DATASETS: Mapping[str, Preset] = {
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
