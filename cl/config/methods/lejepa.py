from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Flag
from cl.config.methods.base import MAX_UNITS, METHOD, CollapseLevel, MethodConfig
from cl.config.presets import Preset

COLLAPSED = 0.4020475797316645  # of SIGReg per image, if all projections are 0


@dataclass(frozen=True)
class LeJEPAConfig(MethodConfig):
    """LeJEPA (arXiv 2511.08544). 0.02 is the weight of the authors' example; their paper has 0.05, too."""

    implementation: ClassVar[str] = "cl.methods.lejepa:LeJEPA"
    # The authors' views, optimizer and, for ResNets, weight decay.
    preset: ClassVar[Preset] = {"solarization_prob": (0.2,), "optimizer": "adamw", "lr": 2e-3, "weight_decay": 5e-4}
    dataset_presets: ClassVar[Mapping[str, Preset]] = {
        "digits": {
            "proj_hidden_dim": 512,
            "proj_output_dim": 32,
            "sigreg_weight": 0.05,
            "sigreg_directions": 256,
            "solarization_prob": (0.0,),
            "weight_decay": 1e-4,
            "batch_size": 128,
            "lr": 4e-3,
            "epochs": 16,
        },
        "cifar10": {"optimizer": "adamw", "lr": 2e-3, "classifier_lr": 1e-2},
        "cifar100": {"optimizer": "adamw", "lr": 2e-3, "classifier_lr": 1e-2},
    }

    method: Annotated[str, METHOD] = "lejepa"
    sigreg_weight: Annotated[
        float, Flag("weight of SIGReg, which makes projections normal; the invariance has the rest", low=0, high=1)
    ] = 0.02
    sigreg_directions: Annotated[
        int, Flag("random directions along which SIGReg looks, drawn anew each step", low=1, high=MAX_UNITS)
    ] = 1024

    def collapse_level(self, images: int) -> CollapseLevel:
        return CollapseLevel("sigreg", COLLAPSED * images)
