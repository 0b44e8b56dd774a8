import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.methods.base import METHOD, PRED_HIDDEN_DIM, PROJ_OUTPUT_DIM, TEMPERATURE, CollapseLevel
from cl.config.methods.queue import QueueConfig
from cl.config.presets import Preset

# solo-learn has 65536 for these 50,000 images, where the nearest row is often an older view of the image itself.
_CIFAR: Preset = {"queue_size": 16384, "gaussian_prob": (0.0,)}


@dataclass(frozen=True)
class NNCLRConfig(QueueConfig):
    """NNCLR (arXiv 2104.14548). Temperature and widths are those of the ResNet-18 recipes; the paper has 0.1."""

    implementation: ClassVar[str] = "cl.methods.nnclr:NNCLR"
    preset: ClassVar[Preset] = {"asymmetric_augmentations": True}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # More and larger steps than other methods: the neighbours have to become good first.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 128,
            "pred_hidden_dim": 512,
            "queue_size": 512,
            "asymmetric_augmentations": False,
            "batch_size": 128,
            "lr": 4e-3,
            "epochs": 16,
        },
        "cifar10": _CIFAR,
        "cifar100": _CIFAR,
    }
    # The queue is overwritten from its start within three steps of 12 images.
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {
        "full queue": ("--queue_size", "20", "--batch_size", "12"),
    }

    method: Annotated[str, METHOD] = "nnclr"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 256
    pred_hidden_dim: Annotated[int, PRED_HIDDEN_DIM] = 4096
    temperature: Annotated[float, TEMPERATURE] = 0.2

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("loss", math.log(images))
