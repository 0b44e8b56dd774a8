"""The card of a backbone: what its users need to know besides the weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from cl.backbones import Backbone, build_backbone
from cl.config.backbone import BackboneConfig
from cl.config.views import Size, as_size
from cl.data.views.spec import EvalSpec

FORMAT = 1


@dataclass(frozen=True)
class Card:
    """`backbone.json`; also stored in `backbone.safetensors`, which is therefore complete by itself."""

    encoder: str
    stem: str | None  # small or large; None for timm's networks
    width: int | None  # likewise
    in_channels: int
    crop_size: Size  # of the full-size views in pixels: side, or height and width
    resize: Size  # that an image just covers before the centre crop in evaluation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]  # of the training images, in label order
    method: str
    metrics: Mapping[str, float | None]  # of the last epoch
    cl: str  # version of this package that wrote the card
    format: int = FORMAT
    patch_size: int | None = None  # of a vision transformer, if it is not as its name says
    norm_origin: str = ""  # who says mean and std
    interpolation: str = "bilinear"  # of the resize in evaluation
    teacher: Mapping[str, str | None] | None = None  # of a distillation: source, SHA-256 of its file, licence

    @property
    def view(self) -> EvalSpec:
        """The view of evaluation."""
        return EvalSpec(self.crop_size, self.resize, self.interpolation)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse a card; raise ValueError, TypeError or KeyError if `text` is not one in this format."""
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, expected {FORMAT}")
        lists = {name: tuple(values[name]) for name in ("mean", "std", "classes")}
        sizes = {name: as_size(values[name]) for name in ("crop_size", "resize")}
        return cls(**{**values, **lists, **sizes})

    def to_json(self) -> str:
        """One field per line. Numbers that are not finite become null, since JSON has no NaN."""
        metrics = {name: x if x is not None and math.isfinite(x) else None for name, x in self.metrics.items()}
        values = asdict(self) | {"metrics": metrics}
        return "{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in values.items()) + "\n}\n"

    def build(self, other_sizes: Mapping[str, Size] = {}) -> Backbone:
        """Build the network that the card describes, without loading weights."""
        stem, width = self.stem or "auto", self.width or 64
        config = BackboneConfig(self.encoder, stem=stem, width=width, patch_size=self.patch_size)
        return build_backbone(config, self.crop_size, self.in_channels, other_sizes)


def teacher_of(method: Mapping[str, Any]) -> dict[str, str | None] | None:
    """What a card says of the teacher of a distillation."""
    if method.get("distill_from") is None:
        return None
    return {
        "source": method["distill_from"],
        "sha256": method["distill_sha256"],
        "licence": method["distill_licence"],
    }
