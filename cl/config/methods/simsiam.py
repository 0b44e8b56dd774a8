from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.methods.base import METHOD, PRED_HIDDEN_DIM, PROJ_OUTPUT_DIM, MethodConfig
from cl.config.presets import Preset


@dataclass(frozen=True)
class SimSiamConfig(MethodConfig):
    """SimSiam (arXiv 2011.10566)."""

    implementation: ClassVar[str] = "cl.methods.simsiam:SimSiam"
    compares_images: ClassVar[bool] = False
    # As in the paper: MoCo v2's colour jitter, a low learning rate that stays constant for the predictor, and residual
    # branches that start at zero.
    preset: ClassVar[Preset] = {
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "min_scale": 0.2,
        "lr": 0.05,
        "lr_scheduler_for_pred_head": False,
        "zero_init_residual": True,
    }
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # More and smaller steps on milder views: it learns little in the 60 steps of the other methods.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 512,
            "pred_hidden_dim": 512,  # 84 to 90 % at width 16; with 128, 78 to 84 %, depending on seed and rounding
            "zero_init_residual": False,
            "min_scale": 0.6,
            "batch_size": 64,
            "lr": 4e-3,
            "lr_scheduler_for_pred_head": True,
            "epochs": 24,
        },
        "cifar10": {"lr": 0.03},
        "cifar100": {"lr": 0.03},
    }

    method: Annotated[str, METHOD] = "simsiam"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 2048
    pred_hidden_dim: Annotated[int, PRED_HIDDEN_DIM] = 512
