from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import METHOD, CollapseLevel, MethodConfig
from cl.config.presets import Preset

# Every data set has a rate for contrastive learning; a regression takes a higher one.
_OPTIMIZER: Preset = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-4, "classifier_lr": 1e-2, "lars": False}


@dataclass(frozen=True)
class DistillConfig(MethodConfig):
    """Distillation of a frozen network's features into a network of any other architecture."""

    implementation: ClassVar[str] = "cl.methods.distill:Distill"
    compares_images: ClassVar[bool] = False
    least_views: ClassVar[int] = 1
    # Mild views: the target is a feature of the whole, unchanged image (44.1 % with SimCLR's views, 53.4 % with these).
    preset: ClassVar[Preset] = {
        **_OPTIMIZER,
        "n_crops": 1,
        "min_scale": 0.5,
        "jitter_prob": 0.0,
        "grey_prob": 0.0,
        "gaussian_prob": (0.0,),
    }
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        "digits": {**_OPTIMIZER, "proj_hidden_dim": 512, "batch_size": 128, "epochs": 16},
        "cifar10": _OPTIMIZER,
        "cifar100": _OPTIMIZER,
        "stl10": _OPTIMIZER,
        "imagenet100": _OPTIMIZER,
        "imagenet": _OPTIMIZER,
    }

    method: Annotated[str, METHOD] = "distill"
    distill_from: Annotated[
        str | None, Flag("the teacher: timm/NAME, a file of weights, or a run folder", resume="free")
    ] = None
    distill_encoder: Annotated[
        str | None, Flag("architecture of a teacher's file that does not say it: timm/NAME, resnet18 or resnet50")
    ] = None
    distill_size: Annotated[
        int | None, Flag("side in pixels of the teacher's views; by default what it was trained with", low=4, high=4096)
    ] = None
    distill_views: Annotated[
        str,
        Flag(
            "what the teacher sees: the image as in evaluation, computed once and cached, or the same views as the "
            "student, in each step",
            choices=("evaluation", "same"),
        ),
    ] = "evaluation"

    distill_sha256: Annotated[
        str | None, Flag("SHA-256 of the teacher's file: another one is refused; by default that of the file")
    ] = None
    distill_licence: Annotated[
        str | None, Flag("licence of the teacher, for the card; by default what timm knows of its own weights")
    ] = None

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("loss", 1.0)  # the targets are centred: no constant points towards all of them
