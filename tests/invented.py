"""A network of timm that only tests know, whose configuration is unlike any other's."""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.efficientnet import EfficientNet, _gen_test_efficientnet

NAME = "cl_invented"
NORM = ((0.2, 0.4, 0.6), (0.1, 0.3, 0.5))
(MEAN, STD) = NORM

default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 96, 96),
            "pool_size": (3, 3),
            "crop_pct": 0.8,
            "interpolation": "bicubic",
            "mean": MEAN,
            "std": STD,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        }
    }
)


@register_model
def cl_invented(pretrained: bool = False, **arguments: Any) -> EfficientNet:
    return _gen_test_efficientnet(NAME, pretrained=pretrained, **arguments)
