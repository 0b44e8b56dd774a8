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
    MethodConfig,
    check_momentum,
)
from cl.config.presets import Preset


@dataclass(frozen=True)
class BYOLConfig(MethodConfig):
    """BYOL (arXiv 2006.07733). 0.99 is the paper's momentum for 100 to 300 epochs; 0.996 for 1000."""

    implementation: ClassVar[str] = "cl.methods.byol:BYOL"
    compares_images: ClassVar[bool] = False
    preset: ClassVar[Preset] = {"asymmetric_augmentations": True}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # In 60 steps from 0.99 to 1 the teacher would keep 74 % of its start: more steps, and a faster teacher.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 128,
            "pred_hidden_dim": 512,
            "teacher_momentum": 0.9,
            "teacher_momentum_end": 0.99,
            "asymmetric_augmentations": False,
            "min_scale": 0.6,
            "batch_size": 64,
            "lr": 4e-3,
            "epochs": 24,
        },
        "cifar10": {"gaussian_prob": (0.0,)},
        "cifar100": {"gaussian_prob": (0.0,)},
    }

    method: Annotated[str, METHOD] = "byol"
    proj_hidden_dim: Annotated[int, PROJ_HIDDEN_DIM] = 4096
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 256
    pred_hidden_dim: Annotated[int, PRED_HIDDEN_DIM] = 4096
    teacher_momentum: Annotated[float, TEACHER_MOMENTUM] = 0.99
    teacher_momentum_end: Annotated[float, TEACHER_MOMENTUM_END] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_momentum(self.teacher_momentum, self.teacher_momentum_end)
