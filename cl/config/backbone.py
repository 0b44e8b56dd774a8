from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag
from cl.errors import UserError

RESNETS = ("resnet18", "resnet50")
SMALL_IMAGE = 64  # pixels: up to here the 224-pixel stem would throw most of the image away


@dataclass(frozen=True)
class EncoderConfig(Config):
    """The network whose features are wanted."""

    encoder: Annotated[str, Flag("backbone: resnet18, resnet50 (torchvision's) or timm/NAME", positional=True)] = (
        "resnet18"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder not in RESNETS and not self.encoder.startswith("timm/"):
            raise UserError(f"encoder: got {self.encoder}, expected one of {', '.join(RESNETS)} or timm/NAME")


@dataclass(frozen=True)
class BackboneConfig(EncoderConfig):
    """How the network is built, and what it starts from."""

    stem: Annotated[
        str,
        Flag(
            "small: 3x3 convolution, no max-pool; large: torchvision's; auto: by --crop_size",
            choices=("auto", "small", "large"),
        ),
    ] = "auto"
    width: Annotated[
        int, Flag("channels of the first stage; 64 is the usual, 16 a quarter of it", low=1, high=4096)
    ] = 64
    init_from: Annotated[str | None, Flag("weights to start from: a run folder, a file, torchvision, or timm/NAME")] = (
        None
    )
    zero_init_residual: Annotated[bool, Flag("start each residual branch at zero")] = False

    def small_stem(self, crop_size: int) -> bool:
        return self.stem == "small" or (self.stem == "auto" and crop_size <= SMALL_IMAGE)
