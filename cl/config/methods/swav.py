import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import MAX_UNITS, METHOD, TEMPERATURE, CollapseLevel
from cl.config.methods.queue import QueueConfig
from cl.config.presets import Preset

PER_CLASS = 6  # prototypes, on small data


def _small(classes: int) -> Preset:
    # At 0.05 the assignments of few images are nearly uniform: digits learn nothing in 60 steps.
    return {"prototypes": PER_CLASS * classes, "sinkhorn_epsilon": 0.02}


@dataclass(frozen=True)
class SwAVConfig(QueueConfig):
    """SwAV (arXiv 2006.09882), for which --multicrop was made. Defaults are the authors' for ImageNet."""

    implementation: ClassVar[str] = "cl.methods.swav:SwAV"
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        "digits": {
            "proj_hidden_dim": 512,
            "freeze_prototypes_epochs": 0,
            "queue_start_epoch": 4,
            "batch_size": 128,
            "lr": 4e-3,
            "epochs": 16,
            **_small(10),
        },
        "cifar10": {"freeze_prototypes_epochs": 2, **_small(10)},
        "cifar100": {"freeze_prototypes_epochs": 2, **_small(100)},
        "imagenet100": {"freeze_prototypes_epochs": 2},
    }
    # The queue is full, overwritten from its start, and used within three steps of 12 images.
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {
        "full queue": ("--queue_size", "20", "--queue_start_epoch", "0", "--batch_size", "12"),
    }

    method: Annotated[str, METHOD] = "swav"
    temperature: Annotated[float, TEMPERATURE] = 0.1
    prototypes: Annotated[int, Flag("directions that images are assigned to", low=2, high=MAX_UNITS)] = 3000
    sinkhorn_epsilon: Annotated[
        float, Flag("softness of the assignments: the smaller, the closer to one prototype each", above=0)
    ] = 0.05
    freeze_prototypes_epochs: Annotated[int, Flag("epochs before the prototypes start to learn", low=0)] = 1
    queue_size: Annotated[
        int,
        Flag(
            "former images that are assigned with those of a batch; at least one optimizer step's; 0: none",
            low=0,
            high=MAX_UNITS,
        ),
    ] = 0
    queue_start_epoch: Annotated[
        int, Flag("epochs before the queue starts to fill; it is used once it is full", low=0)
    ] = 15

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("loss", math.log(self.prototypes))

    def check_batch(self, global_batch: int) -> None:
        if self.queue_size:
            super().check_batch(global_batch)

    def warnings(self, images: int, global_batch: int, classes: int = 0) -> Iterator[str]:
        if self.queue_size:
            yield from super().warnings(images, global_batch, classes)
        if self.prototypes < classes:
            yield (
                f"--prototypes {self.prototypes} are fewer than the {classes} classes, so that some share one; "
                f"--prototypes {PER_CLASS * classes} is {PER_CLASS} per class"
            )
