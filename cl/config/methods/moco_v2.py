import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import (
    METHOD,
    PROJ_OUTPUT_DIM,
    TEACHER_MOMENTUM,
    TEACHER_MOMENTUM_END,
    TEMPERATURE,
    CollapseLevel,
    check_momentum,
)
from cl.config.methods.queue import QueueConfig
from cl.config.presets import Preset

# As in the authors' CIFAR notebook, where larger queues are no better; batch norm in the projector as for SimCLR.
_CIFAR: Preset = {"queue_size": 4096, "temperature": 0.1, "proj_batch_norm": True}


@dataclass(frozen=True)
class MoCoV2Config(QueueConfig):
    """MoCo v2+: MoCo v2 (arXiv 2003.04297) in both directions, as in SimSiam's paper and the ResNet-18 recipes."""

    implementation: ClassVar[str] = "cl.methods.moco_v2:MoCoV2"
    compares_images: ClassVar[bool] = False  # the negatives are those of the queue
    preset: ClassVar[Preset] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "min_scale": 0.2}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # Without batch norm in the projector the projections collapse: the loss ends at 6.22, where ln(513) is 6.24.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 128,
            "proj_batch_norm": True,
            "queue_size": 512,
            "temperature": 0.1,
            "teacher_momentum": 0.9,
            "teacher_momentum_end": 0.99,
            "batch_size": 128,
            "lr": 4e-3,
            "epochs": 16,
        },
        "cifar10": _CIFAR,
        "cifar100": _CIFAR,
    }
    # The queue is overwritten from its start within three steps of 12 images.
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {
        "full queue": ("--queue_size", "20", "--batch_size", "12", "--proj_batch_norm"),
    }

    method: Annotated[str, METHOD] = "moco_v2"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 256
    proj_batch_norm: Annotated[bool, Flag("batch norm in both layers of the projector; the papers have none")] = False
    temperature: Annotated[float, TEMPERATURE] = 0.2
    teacher_momentum: Annotated[float, TEACHER_MOMENTUM] = 0.99
    teacher_momentum_end: Annotated[float, TEACHER_MOMENTUM_END] = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_momentum(self.teacher_momentum, self.teacher_momentum_end)

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("loss", math.log(self.queue_size + 1))
