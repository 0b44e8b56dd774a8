"""The registry: a method's name, its flags, and where its implementation lives (imported when it is built)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Config, Flag

NAMES = ("simclr", "barlow_twins", "simsiam", "supcon")


@dataclass(frozen=True)
class MethodConfig(Config):
    """What every method has: its name, and a projector on top of the backbone."""

    implementation: ClassVar[str] = ""  # "module:Class"

    method: Annotated[
        str, Flag("what is learned from the views", choices=NAMES, consts={"--supervised": "supcon"}, coming=NAMES[1:])
    ] = "simclr"
    proj_hidden_dim: Annotated[int, Flag("hidden units of the projector", aliases=("--hidden_mlp",), low=1)] = 2048
    proj_output_dim: Annotated[int, Flag("outputs of the projector", aliases=("--encoding_dim",), low=1)] = 128


@dataclass(frozen=True)
class SimCLRConfig(MethodConfig):
    """SimCLR (arXiv 2002.05709). 0.2 is the temperature of the ImageNet-100 recipes; the paper's own is 0.1."""

    implementation: ClassVar[str] = "cl.methods.simclr:SimCLR"

    temperature: Annotated[float, Flag("temperature of the softmax over similarities", above=0)] = 0.2


@dataclass(frozen=True)
class SupConConfig(SimCLRConfig):
    """SupCon: SimCLR whose positives are all images of a class (arXiv 2004.11362)."""

    implementation: ClassVar[str] = ""


@dataclass(frozen=True)
class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins (arXiv 2103.03230)."""

    lamb: Annotated[float, Flag("weight of the off-diagonal correlations", low=0)] = 5e-3
    scale_loss: Annotated[float, Flag("factor on the whole loss", above=0)] = 1.0


@dataclass(frozen=True)
class SimSiamConfig(MethodConfig):
    """SimSiam (arXiv 2011.10566)."""

    pred_hidden_dim: Annotated[int, Flag("hidden units of the predictor", low=1)] = 512


METHODS: dict[str, type[MethodConfig]] = {
    "simclr": SimCLRConfig,
    "barlow_twins": BarlowTwinsConfig,
    "simsiam": SimSiamConfig,
    "supcon": SupConConfig,
}
