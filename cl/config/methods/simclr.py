from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import METHOD, TEMPERATURE, MethodConfig
from cl.config.presets import Preset


@dataclass(frozen=True)
class SimCLRConfig(MethodConfig):
    """SimCLR (arXiv 2002.05709). Temperature 0.2 is that of the ImageNet-100 recipes; the paper has 0.1."""

    implementation: ClassVar[str] = "cl.methods.simclr:SimCLR"
    supervised: ClassVar[str | None] = "supcon"
    # As in lightly's benchmark: after 5 epochs of 5,000 images kNN accuracy is 38.5 % with batch norm, 34.7 % without.
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        "cifar10": {"proj_batch_norm": True},
        "cifar100": {"proj_batch_norm": True},
    }

    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {
        "DCL": ("--decoupled",),
        "DCL, 2 + 6 crops": ("--decoupled", "--multicrop"),
    }

    method: Annotated[str, METHOD] = "simclr"
    temperature: Annotated[float, TEMPERATURE] = 0.2
    proj_batch_norm: Annotated[bool, Flag("batch norm in the projector, as in the SimCLR authors' code")] = False

    decoupled: Annotated[
        bool, Flag("take the positives out of the denominator of the softmax (DCL, arXiv 2110.06848)")
    ] = False

    def banner_rows(self, other_views: int) -> dict[str, str]:
        return {"anchors": f"each view is compared with {other_views} views of other images"}
