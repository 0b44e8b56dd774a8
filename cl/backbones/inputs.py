"""How the images of published weights were prepared, as timm and torchvision say."""

import math
from typing import NamedTuple

from cl.config.views import Size, sides
from cl.data.views.spec import EvalSpec, Norm


class Inputs(NamedTuple):
    """What weights say about their images."""

    origin: str  # who says so
    norm: Norm
    size: Size | None  # of a view
    fraction: float | None = None  # of a resized image's sides that evaluation crops; None for EvalSpec's rule
    interpolation: str = "bilinear"
    differs: str = ""  # what is done otherwise here

    def view(self, size: Size) -> EvalSpec:
        """The view of evaluation at `size` pixels, which need not be that of the weights."""
        if self.fraction is None or EvalSpec(size).resize == size:  # small images are not cropped
            return EvalSpec(size, None, self.interpolation)
        # timm rounds down; the small number makes up for the rounding of 224 / (224 / 232)
        height, width = (math.floor(side / self.fraction + 1e-6) for side in sides(size))
        return EvalSpec(size, height if height == width else (height, width), self.interpolation)


def timm_inputs(name: str) -> Inputs | None:
    """timm's configuration of the network `name`, with or without a tag of weights; None if it has none."""
    from timm.data.config import resolve_data_config
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name)
    if found is None:
        return None
    config = resolve_data_config(pretrained_cfg=found.to_dict())
    (_, height, width) = config["input_size"]
    mode = config["crop_mode"]
    return Inputs(
        origin=f"timm's configuration of {name}",
        norm=(tuple(config["mean"]), tuple(config["std"])),
        size=height if height == width else (height, width),
        fraction=config["crop_pct"],
        interpolation=config["interpolation"],
        differs=f"timm evaluates {name} with crop mode {mode}, cl on the centre" if mode != "center" else "",
    )


def licence_of(source: str) -> str | None:
    """The licence of timm's weights of timm/NAME, where timm says it."""
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(source.removeprefix("timm/"))
    return found.license if found is not None else None


def torchvision_inputs(encoder: str, file: str = "") -> Inputs | None:
    """What torchvision evaluates its default weights of `encoder` with, or those that it publishes as `file`."""
    from torchvision.models import get_model_weights

    published = get_model_weights(encoder)
    weights = (
        next((each for each in published if each.url.endswith(f"/{file}")), None) if file else published["DEFAULT"]
    )
    if weights is None:
        return None
    transform = weights.transforms()
    return Inputs(
        origin=f"torchvision's {weights}",
        norm=(tuple(transform.mean), tuple(transform.std)),
        size=transform.crop_size[0],
        fraction=transform.crop_size[0] / transform.resize_size[0],
        interpolation=transform.interpolation.value,
    )
