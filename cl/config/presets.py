"""Defaults that depend on the data set or on another flag, by field name; a method's presets are in its own config.

Precedence, highest first: the typed flag; the preset of more than three channels, of a transformer with the method, of
a transformer, of a run that starts from weights, of a typed optimizer that the following do not have, of data set and
method together, of the data set, of a flag, of the method; the field's default.
"""

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]

# 8-pixel digits: a flip makes another digit (2, 5), and a small crop cuts off the strokes that distinguish 3 from 8, so
# crops cover at least half of the area, and intensity changes only slightly.
# CIFAR: no blur (SimCLR, appendix B.9); lr and weight decay as in lightly's benchmark (0.06 per 128 images, 5e-4).
_CIFAR: Preset = {
    "crop_size": 32,
    "small_crop_size": 24,
    "gaussian_prob": (0.0,),
    "lr": 0.12,
    "weight_decay": 5e-4,
    "epochs": 200,
}
PRETRAIN_DATASETS: Mapping[str, Preset] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "stl10": {"crop_size": 96, "small_crop_size": 58},
    "digits": {
        "crop_size": 8,
        "small_crop_size": 6,
        "min_scale": 0.5,
        "small_scale": (0.3, 0.5),
        "flip_prob": 0.0,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.0,
        "hue": 0.0,
        "grey_prob": 0.0,
        "gaussian_prob": (0.0,),
        "optimizer": "adamw",
        "lr": 1e-3,
        "classifier_lr": 1e-2,
        "epochs": 12,
        "num_workers": 0,
    },
}
# A learning rate for sgd does not suit Adam: a typed --optimizer replaces the data set's rates by these.
PRETRAIN_OPTIMIZERS: Mapping[str, Preset] = {
    "adam": {"lr": 1e-3, "classifier_lr": 1e-2},
    "adamw": {"lr": 1e-3, "classifier_lr": 1e-2},
}
# Data sets' rates are for ResNets. This is DINO's rate (LeJEPA's too), with the decay of DeiT and LeJEPA.
PRETRAIN_TRANSFORMERS: Preset = {
    "optimizer": "adamw",
    "lr": 5e-4,
    "classifier_lr": 1e-3,
    "weight_decay": 0.05,
    "decay_biases_and_norms": False,
}
# With --init_from. Good weights are lost at the rates of random ones, and with statistics of augmented views instead of
# the images that they were recorded on: docs/results.md has the measurement.
PRETRAIN_CONTINUED: Preset = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "classifier_lr": 1e-2,
    "backbone_lr_factor": 0.1,
    "renew_statistics": "never",
}
FOR_ADAMW = ("optimizer", "lr", "classifier_lr", "weight_decay", "weight_decay_end")  # not for another optimizer
PRETRAIN_FLAGS: Mapping[str, Preset] = {
    "multicrop": {"min_scale": 0.14},  # SwAV, arXiv 2006.09882
    "asymmetric_augmentations": {  # BYOL, arXiv 2006.07733, table 6: first view, second view
        "gaussian_prob": (1.0, 0.1),
        "solarization_prob": (0.0, 0.2),
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
    },
}
# Saturation, hue and grey need red, green and blue: nothing says which of four or more channels these are.
PRETRAIN_MULTICHANNEL: Preset = {"saturation": 0.0, "hue": 0.0, "grey_prob": 0.0}

LINEAR_DATASETS: Mapping[str, Preset] = {
    "cifar10": {"crop_size": 32, "weight_decay": (0.0,)},
    "cifar100": {"crop_size": 32, "weight_decay": (0.0,)},
    "stl10": {"crop_size": 96, "weight_decay": (0.0,)},
    "imagenet100": {"weight_decay": (0.0,)},
    "imagenet": {"weight_decay": (0.0,)},
    "custom": {"weight_decay": (0.0,)},
    "digits": {
        "crop_size": 8,
        "min_scale": 0.8,
        "flip_prob": 0.0,
        "lr": (0.03,),
        "weight_decay": (0.0,),
        "epochs": 20,
        "num_workers": 0,
    },
}

# A typed --lr replaces the grid and keeps the data set's weight decay. The grid spans the rates that features of
# different norms need (0.1 to 30 across methods, swav#38). An epoch takes a fraction of a second, so 100 are cheap.
CACHED: Preset = {"epochs": 100}
CACHED_GRID: Preset = {
    "lr": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "weight_decay": (0.0, 1e-4, 1e-3),
}
