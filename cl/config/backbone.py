import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag
from cl.config.views import Size, sides
from cl.errors import UserError

RESNETS = ("resnet18", "resnet50")
RESNETS_ONLY = ("stem", "width", "zero_init_residual")  # fields that do not apply to timm's networks
TIMMS_ONLY = ("patch_size", "drop_path")  # fields that do not apply to torchvision's networks
# Names of timm's vision transformers: ViT, DeiT, BEiT, EVA, Swin, CaiT, XCiT.
TRANSFORMER = re.compile(r"(test_)?(naflex|flexi)?(vit\d?|deit3?|beit(v2|3)?|eva(02)?|swin(v2)?|cait|xcit)([_.]|$)")
SMALL_IMAGE = 64  # pixels: at or below this, the stem for 224 pixels would discard most of the image


@dataclass(frozen=True)
class EncoderConfig(Config):
    """The backbone."""

    encoder: Annotated[str, Flag("backbone: resnet18, resnet50 (torchvision's) or timm/NAME", positional=True)] = (
        "resnet18"
    )
    weights_key: Annotated[
        str | None, Flag("which network of a weight file that holds several, by its key in the file: teacher")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder not in RESNETS and not self.encoder.startswith("timm/"):
            raise UserError(f"encoder: got {self.encoder}, expected one of {', '.join(RESNETS)} or timm/NAME")

    @property
    def timm_name(self) -> str | None:
        """The network's name in timm; None for torchvision's networks."""
        return self.encoder.removeprefix("timm/") if self.encoder.startswith("timm/") else None


def is_path(source: str | None) -> bool:
    """Whether --init_from is a run folder or a file, not a network to download, nor unset."""
    return source is not None and source != "torchvision" and not source.startswith("timm/")


def is_transformer(encoder: str) -> bool:
    """Whether an encoder is one of timm's vision transformers, by its name: timm is not imported yet."""
    return encoder.startswith("timm/") and TRANSFORMER.match(encoder.removeprefix("timm/")) is not None


@dataclass(frozen=True)
class BackboneConfig(EncoderConfig):
    """The backbone and its initial weights."""

    stem: Annotated[
        str,
        Flag(
            "small: 3x3 convolution, no max-pool; large: torchvision's; auto: by --crop_size",
            choices=("auto", "small", "large"),
        ),
    ] = "auto"
    width: Annotated[
        int, Flag("channels of the first stage; 64 is standard, 16 a quarter of that", low=1, high=4096)
    ] = 64
    init_from: Annotated[str | None, Flag("weights to start from: a run folder, a file, torchvision, or timm/NAME")] = (
        None
    )
    freeze_backbone_epochs: Annotated[
        float, Flag("epochs before the backbone starts to learn; its heads learn from the first step", low=0)
    ] = 0.0
    renew_statistics: Annotated[
        str,
        Flag(
            "when the backbone's batch norms use and record the statistics of their batches: while it is learning; "
            "always: also while it is frozen; never: the recorded ones of --init_from stay and are used",
            choices=("learning", "always", "never"),
        ),
    ] = "learning"
    zero_init_residual: Annotated[bool, Flag("start each residual branch at zero")] = False
    patch_size: Annotated[
        int | None,
        Flag("side of a vision transformer's patches in pixels; by default as the name says", low=1, high=64),
    ] = None
    drop_path: Annotated[
        float,
        Flag("probability that an image skips the last residual branch; lower for those before it", low=0, high=0.9),
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights_key is not None and not is_path(self.init_from):
            raise UserError(f"--weights_key: got {self.weights_key} without a file in --init_from, expected both")
        if self.renew_statistics == "never" and self.init_from is None:
            raise UserError("--renew_statistics: got never without --init_from, expected both: nothing is recorded yet")

    def refuse_typed(self, typed: Collection[str]) -> None:
        """Raise UserError if a flag was typed for a network that it does not apply to; presets may set one."""
        for flag in RESNETS_ONLY:
            if self.timm_name is not None and flag in typed:
                raise UserError(f"--{flag}: got it with {self.encoder}, expected it with {' or '.join(RESNETS)} only")
        for flag in TIMMS_ONLY:
            if self.timm_name is None and flag in typed:
                raise UserError(f"--{flag}: got it with {self.encoder}, expected it with timm/NAME only")

    def renews_statistics(self, frozen: bool) -> bool:
        """Whether the backbone's batch norms use and record the statistics of their batches."""
        return self.renew_statistics == "always" or (self.renew_statistics == "learning" and not frozen)

    def small_stem(self, crop_size: Size) -> bool:
        return self.stem == "small" or (self.stem == "auto" and min(sides(crop_size)) <= SMALL_IMAGE)
