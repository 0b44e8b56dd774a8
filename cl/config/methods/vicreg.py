from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import METHOD, PROJ_OUTPUT_DIM, MethodConfig
from cl.config.presets import Preset


@dataclass(frozen=True)
class VICRegConfig(MethodConfig):
    """VICReg (arXiv 2105.04906). 2048 outputs are those of the ResNet-18 recipes; the paper's own are 8192."""

    implementation: ClassVar[str] = "cl.methods.vicreg:VICReg"
    preset: ClassVar[Preset] = {"asymmetric_augmentations": True, "zero_init_residual": True}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 512,
            "asymmetric_augmentations": False,
            "zero_init_residual": False,
            "batch_size": 128,
            "lr": 2e-3,
        },
    }
    # The covariance has another form where the dimensions outnumber the batch.
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {"D > B": ("--proj_output_dim", "32")}

    method: Annotated[str, METHOD] = "vicreg"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 2048
    sim_weight: Annotated[float, Flag("weight of the invariance term", low=0)] = 25.0
    var_weight: Annotated[float, Flag("weight of the variance term", low=0)] = 25.0
    cov_weight: Annotated[float, Flag("weight of the covariance term", low=0)] = 1.0
