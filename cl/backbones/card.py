"""What a user of a backbone has to know beside its weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from cl.backbones import Backbone, build_backbone
from cl.config.backbone import BackboneConfig

FORMAT = 1


@dataclass(frozen=True)
class Card:
    """`backbone.json`; `backbone.safetensors` carries it as well, so that it may travel alone."""

    encoder: str
    stem: str | None  # small or large; None for timm's networks
    width: int | None  # likewise
    in_channels: int
    crop_size: int  # side of the full-size views in pixels
    resize: int  # of the short side, before evaluation crops the centre
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]  # of the training images, in the order of their labels
    method: str
    metrics: Mapping[str, float | None]  # of the last epoch
    cl: str  # the version that wrote it
    format: int = FORMAT

    @classmethod
    def from_json(cls, text: str) -> Self:
        """ValueError, TypeError or KeyError where it is no card of this format."""
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, expected {FORMAT}")
        lists = {name: tuple(values[name]) for name in ("mean", "std", "classes")}
        return cls(**{**values, **lists})

    def to_json(self) -> str:
        """A field a line. A number that is none becomes null, for JSON has no NaN."""
        numbers = {name: x if x is not None and math.isfinite(x) else None for name, x in self.metrics.items()}
        values = asdict(self) | {"metrics": numbers}
        return "{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in values.items()) + "\n}\n"

    def build(self, other_sizes: Mapping[str, int] = {}) -> Backbone:
        """The network that the card describes, with no weights yet."""
        made = BackboneConfig(self.encoder, stem=self.stem or "auto", width=self.width or 64)
        return build_backbone(made, self.crop_size, self.in_channels, other_sizes)
