import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.methods.base import METHOD, TEMPERATURE, CollapseLevel
from cl.config.methods.byol import BYOLConfig
from cl.config.presets import Preset


@dataclass(frozen=True)
class MoCoV3Config(BYOLConfig):
    """MoCo v3 (arXiv 2104.02057): BYOL's networks. Temperature 0.2 is that of its ViTs; its ResNet-50 has 1."""

    implementation: ClassVar[str] = "cl.methods.moco_v3:MoCoV3"
    compares_images: ClassVar[bool] = True
    preset: ClassVar[Preset] = {"asymmetric_augmentations": True}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # As BYOL's teacher: a faster one for a run of 176 steps.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 128,
            "pred_hidden_dim": 512,
            "teacher_momentum": 0.9,
            "asymmetric_augmentations": False,
            "batch_size": 128,
            "lr": 4e-3,
            "epochs": 16,
        },
        "cifar10": {"gaussian_prob": (0.0,)},
        "cifar100": {"gaussian_prob": (0.0,)},
    }

    method: Annotated[str, METHOD] = "moco_v3"
    temperature: Annotated[float, TEMPERATURE] = 0.2

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("loss", 4 * self.temperature * math.log(images))
