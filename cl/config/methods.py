"""The registry: a method's name, its flags, and where its implementation lives (imported when it is built)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Config, Flag
from cl.errors import UserError

METHODS: dict[str, type["MethodConfig"]] = {}  # filled at the end of this file
MOST = 2**20  # units of a layer: what a typo asks for must not be allocated
METHOD = Flag("what is learned from the views", choices=METHODS, consts={"--supervised": "supcon"})
PROJ_OUTPUT_DIM = Flag("outputs of the projector", aliases=("--encoding_dim",), low=1, high=MOST)
TEMPERATURE = Flag("temperature of the softmax over similarities", above=0)


@dataclass(frozen=True)
class MethodConfig(Config):
    """What every method has: its name, and a projector on top of the backbone."""

    implementation: ClassVar[str]  # "module:Class"
    uses_labels: ClassVar[bool] = False
    compares_images: ClassVar[bool] = True  # False: an image's loss does not depend on the others of its batch

    method: Annotated[str, METHOD] = ""

    proj_hidden_dim: Annotated[
        int, Flag("hidden units of the projector", aliases=("--hidden_mlp",), low=1, high=MOST)
    ] = 2048
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if METHODS[self.method] is not type(self):
            raise UserError(
                f"--method: got {self.method} with the flags of {type(self).__name__}, expected its own name"
            )


@dataclass(frozen=True)
class SimCLRConfig(MethodConfig):
    """SimCLR (arXiv 2002.05709). 0.2 is the temperature of the ImageNet-100 recipes; the paper's own is 0.1."""

    implementation: ClassVar[str] = "cl.methods.simclr:SimCLR"

    method: Annotated[str, METHOD] = "simclr"
    temperature: Annotated[float, TEMPERATURE] = 0.2
    proj_batch_norm: Annotated[bool, Flag("batch norm in the projector, as in SimCLR's code")] = False


@dataclass(frozen=True)
class SupConConfig(SimCLRConfig):
    """SupCon: SimCLR whose positives are all images of a class (arXiv 2004.11362)."""

    implementation: ClassVar[str] = "cl.methods.supcon:SupCon"
    uses_labels: ClassVar[bool] = True

    method: Annotated[str, METHOD] = "supcon"
    temperature: Annotated[float, TEMPERATURE] = 0.1


@dataclass(frozen=True)
class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins (arXiv 2103.03230). 2048 outputs are those of the ResNet-18 recipes; the paper's own are 8192."""

    implementation: ClassVar[str] = "cl.methods.barlow_twins:BarlowTwins"

    method: Annotated[str, METHOD] = "barlow_twins"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 2048
    lamb: Annotated[float, Flag("weight of the off-diagonal correlations", low=0)] = 5e-3
    scale_loss: Annotated[
        float, Flag("factor on the whole loss; under --lars the rate of biases and norms alone", above=0)
    ] = 1.0


@dataclass(frozen=True)
class SimSiamConfig(MethodConfig):
    """SimSiam (arXiv 2011.10566)."""

    implementation: ClassVar[str] = "cl.methods.simsiam:SimSiam"
    compares_images: ClassVar[bool] = False

    method: Annotated[str, METHOD] = "simsiam"
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 2048
    pred_hidden_dim: Annotated[int, Flag("hidden units of the predictor", low=1, high=MOST)] = 512


METHODS |= {
    "simclr": SimCLRConfig,
    "barlow_twins": BarlowTwinsConfig,
    "simsiam": SimSiamConfig,
    "supcon": SupConConfig,
}
