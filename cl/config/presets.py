"""Defaults that depend on the data set, the method or another flag, keyed by field name.

A typed flag beats the preset of a typed optimizer, that beats the one of data set and method together, the data set's,
the flags', the method's, and that the field's own default.
"""

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]

# 8-pixel digits: a flip makes another digit (2, 5) and a small crop cuts the strokes that tell 3 from 8, so views are
# crops from half of the area with a light change of intensity.
# CIFAR: no blur (SimCLR, appendix B.9); rate and decay are lightly's benchmark recipe (0.06 per 128 images, 5e-4), and
# so is the projector's batch norm: after 5 epochs of 5,000 images kNN has 38.5 % with it, 34.7 % without.
_CIFAR: Preset = {
    "crop_size": 32,
    "small_crop_size": 24,
    "gaussian_prob": (0.0,),
    "lr": 0.12,
    "weight_decay": 5e-4,
    "epochs": 200,
}
_WEAK_JITTER: Preset = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}  # MoCo v2's
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
PRETRAIN_METHODS: Mapping[str, Preset] = {
    "barlow_twins": {"asymmetric_augmentations": True, "lr": 0.1},
    # The paper's: a low rate, which the predictor keeps to the end, and residual branches that start at zero.
    "simsiam": {
        **_WEAK_JITTER,
        "min_scale": 0.2,
        "lr": 0.05,
        "lr_scheduler_for_pred_head": False,
        "zero_init_residual": True,
    },
}
PRETRAIN_BOTH: Mapping[tuple[str, str], Preset] = {
    ("digits", "barlow_twins"): {"proj_hidden_dim": 512, "proj_output_dim": 512, "asymmetric_augmentations": False},
    # More and smaller steps on milder views; of the 60 steps of the others it learns little.
    ("digits", "simsiam"): {
        "proj_hidden_dim": 512,
        "proj_output_dim": 512,
        "pred_hidden_dim": 128,
        "zero_init_residual": False,
        "min_scale": 0.6,
        "batch_size": 64,
        "lr": 2e-3,
        "epochs": 16,
    },
    ("cifar10", "simclr"): {"proj_batch_norm": True},
    ("cifar100", "simclr"): {"proj_batch_norm": True},
    ("cifar10", "supcon"): {"proj_batch_norm": True},
    ("cifar100", "supcon"): {"proj_batch_norm": True},
    ("cifar10", "simsiam"): {"lr": 0.03},
    ("cifar100", "simsiam"): {"lr": 0.03},
}
# A rate of sgd is none of Adam's: whoever types --optimizer gets these in the place of the data set's.
PRETRAIN_OPTIMIZERS: Mapping[str, Preset] = {
    "adam": {"lr": 1e-3, "classifier_lr": 1e-2},
    "adamw": {"lr": 1e-3, "classifier_lr": 1e-2},
}
PRETRAIN_FLAGS: Mapping[str, Preset] = {
    "multicrop": {"min_scale": 0.14},  # SwAV, arXiv 2006.09882
    "asymmetric_augmentations": {  # BYOL, arXiv 2006.07733, table 6: the first view, the second
        "gaussian_prob": (1.0, 0.1),
        "solarization_prob": (0.0, 0.2),
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
    },
}

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

# A rate that is typed is the one to try, with the decay of the data set; otherwise the grid spans what features of
# different norms need (0.1 to 30 across methods, swav#38). An epoch takes a fraction of a second: there is no hurry.
CACHED: Preset = {"epochs": 100}
CACHED_GRID: Preset = {
    "lr": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "weight_decay": (0.0, 1e-4, 1e-3),
}
