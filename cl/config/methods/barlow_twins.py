from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import METHOD, PROJ_OUTPUT_DIM, MethodConfig
from cl.config.presets import Preset


@dataclass(frozen=True)
class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins (arXiv 2103.03230). 2048 outputs are those of the ResNet-18 recipes; the paper has 8192."""

    implementation: ClassVar[str] = "cl.methods.barlow_twins:BarlowTwins"
    preset: ClassVar[Preset] = {"asymmetric_augmentations": True, "lr": 0.1}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        # More and larger steps on milder views, and more weight for the off-diagonal: 512 outputs have less of it than
        # the paper's 8192. At width 16 ten labels per class give 84 to 90 % instead of 70 %.
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 512,
            "asymmetric_augmentations": False,
            "min_scale": 0.6,
            "batch_size": 128,
            "lr": 2e-3,
            "epochs": 24,
            "lamb": 0.02,
        },
    }
    # The loss is computed differently when there are more dimensions than images in the batch.
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {"D > B": ("--proj_output_dim", "32")}

    method: Annotated[str, METHOD] = "barlow_twins"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 2048
    lamb: Annotated[float, Flag("weight of the off-diagonal correlations", low=0)] = 5e-3
    scale_loss: Annotated[
        float, Flag("factor of the loss; under --lars it affects only biases and norm parameters", above=0)
    ] = 1.0
