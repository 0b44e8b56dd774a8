import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.methods.base import (
    METHOD,
    PRED_HIDDEN_DIM,
    PROJ_HIDDEN_DIM,
    PROJ_OUTPUT_DIM,
    TEACHER_MOMENTUM,
    TEACHER_MOMENTUM_END,
    TEMPERATURE,
    CollapseLevel,
    MethodConfig,
    check_momentum,
)
from cl.config.presets import Preset


@dataclass(frozen=True)
class MoCoV3Config(MethodConfig):
    """MoCo v3 (arXiv 2104.02057): BYOL's networks. Temperature 0.2 is that of its ViTs; its ResNet-50 has 1."""

    implementation: ClassVar[str] = "cl.methods.moco_v3:MoCoV3"
    preset: ClassVar[Preset] = {"asymmetric_augmentations": True}
    # The authors decay biases and norms, too.
    transformer_preset: ClassVar[Preset] = {"lr": 1.5e-4, "weight_decay": 0.1, "decay_biases_and_norms": True}
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
    proj_hidden_dim: Annotated[int, PROJ_HIDDEN_DIM] = 4096
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 256
    pred_hidden_dim: Annotated[int, PRED_HIDDEN_DIM] = 4096
    teacher_momentum: Annotated[float, TEACHER_MOMENTUM] = 0.99
    teacher_momentum_end: Annotated[float, TEACHER_MOMENTUM_END] = 1.0
    temperature: Annotated[float, TEMPERATURE] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_momentum(self.teacher_momentum, self.teacher_momentum_end)

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("loss", 4 * self.temperature * math.log(images))
