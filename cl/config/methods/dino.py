import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import (
    MAX_UNITS,
    METHOD,
    PROJ_OUTPUT_DIM,
    TEACHER_MOMENTUM,
    TEACHER_MOMENTUM_END,
    TEMPERATURE,
    CollapseLevel,
    MethodConfig,
    check_momentum,
)
from cl.config.presets import Preset
from cl.errors import UserError

# The authors advise 0.9995 for small batches; 0.996 is for 512 to 1024 images.
_CIFAR: Preset = {"teacher_momentum": 0.9995, "gaussian_prob": (0.0,)}


@dataclass(frozen=True)
class DINOConfig(MethodConfig):
    """DINO (arXiv 2104.14294). 4096 prototypes are those of the ResNet-18 recipes; the paper has 65536 on ImageNet."""

    implementation: ClassVar[str] = "cl.methods.dino:DINO"
    compares_images: ClassVar[bool] = False
    evaluated: ClassVar[str] = "teacher.backbone"
    preset: ClassVar[Preset] = {
        # BYOL's views: the first full-size one, the second, small crops.
        "gaussian_prob": (1.0, 0.1, 0.5),
        "solarization_prob": (0.0, 0.2, 0.0),
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "clip_grad": 3.0,
        "clip_each_parameter": True,
    }
    transformer_preset: ClassVar[Preset] = {"weight_decay": 0.04, "weight_decay_end": 0.4, "drop_path": 0.1}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # Without batch norm in the head the features stay at random initialisation. A teacher for 528 steps.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 64,
            "prototypes": 256,
            "head_batch_norm": True,
            "teacher_momentum": 0.95,
            "freeze_last_layer_epochs": 0.0,
            "solarization_prob": (0.0,),
            "min_scale": 0.6,
            "clip_grad": None,
            "batch_size": 64,
            "lr": 4e-3,
            "epochs": 24,
        },
        "cifar10": _CIFAR,
        "cifar100": _CIFAR,
        "imagenet100": {"teacher_momentum": 0.9995},
        "imagenet": {"prototypes": 65536},
    }
    # Epochs have three steps there.
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {
        "all schedules": (
            *("--head_batch_norm", "--no_decay_biases_and_norms", "--freeze_last_layer_epochs", "0.34"),
            *("--teacher_temperature", "0.07", "--teacher_temperature_warmup_epochs", "0.67"),
            *("--weight_decay_end", "0.4", "--clip_grad", "0.05"),
        ),
    }

    method: Annotated[str, METHOD] = "dino"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 256
    prototypes: Annotated[int, Flag("prototypes: outputs of the head's last layer", low=2, high=MAX_UNITS)] = 4096
    head_batch_norm: Annotated[bool, Flag("batch norm in the hidden layers of the head")] = False
    temperature: Annotated[float, TEMPERATURE] = 0.1
    teacher_temperature: Annotated[float, Flag("temperature of the teacher's softmax, after its warm-up", above=0)] = (
        0.04
    )
    teacher_temperature_start: Annotated[
        float, Flag("temperature of the teacher's softmax at the first step, if it has a warm-up", above=0)
    ] = 0.04
    teacher_temperature_warmup_epochs: Annotated[
        float, Flag("epochs in which the teacher's temperature rises linearly to --teacher_temperature", low=0)
    ] = 0.0
    teacher_momentum: Annotated[float, TEACHER_MOMENTUM] = 0.996
    teacher_momentum_end: Annotated[float, TEACHER_MOMENTUM_END] = 1.0
    centre_momentum: Annotated[
        float, Flag("momentum of the centre of the teacher's scores: how much of it stays", low=0, high=1)
    ] = 0.9
    freeze_last_layer_epochs: Annotated[
        float, Flag("epochs before the prototypes learn, while the features are random", low=0)
    ] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_momentum(self.teacher_momentum, self.teacher_momentum_end)
        if self.teacher_temperature_warmup_epochs and self.teacher_temperature_start > self.teacher_temperature:
            raise UserError(
                f"--teacher_temperature_start: got {self.teacher_temperature_start:g}, expected at most the "
                f"--teacher_temperature of {self.teacher_temperature:g}"
            )

    def collapse_level(self, images: int) -> CollapseLevel:
        """Of the targets: the loss of a healthy run begins above ln K, for predictions err before they are sharp."""
        return CollapseLevel("teacher/entropy", math.log(self.prototypes))

    def warnings(self, images: int, global_batch: int, classes: int = 0) -> Iterator[str]:
        if self.teacher_temperature >= self.temperature:
            yield (
                f"--teacher_temperature {self.teacher_temperature:g} is not below --temperature {self.temperature:g}: "
                "targets that are no sharper than the predictions teach nothing"
            )
