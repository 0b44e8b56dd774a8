from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag
from cl.errors import UserError


@dataclass(frozen=True)
class ViewsConfig(Config):
    """What one training view of an image is: linear evaluation needs no more than this."""

    crop_size: Annotated[int, Flag("side of a view in pixels", low=4, high=4096)] = 224
    min_scale: Annotated[float, Flag("smallest share of the image's area that a crop covers", above=0, high=1)] = 0.08
    flip_prob: Annotated[float, Flag("probability of a horizontal flip", low=0, high=1)] = 0.5


@dataclass(frozen=True)
class PretrainViewsConfig(ViewsConfig):
    """The views of pretraining. Defaults are SimCLR's for ImageNet (arXiv 2002.05709, appendix A)."""

    brightness: Annotated[float, Flag("jitter strength: factor in [1 - x, 1 + x]", low=0, high=10)] = 0.8
    contrast: Annotated[float, Flag("jitter strength: factor in [1 - x, 1 + x]", low=0, high=10)] = 0.8
    saturation: Annotated[float, Flag("jitter strength: factor in [1 - x, 1 + x]", low=0, high=10)] = 0.8
    hue: Annotated[float, Flag("jitter strength: shift in [-x, x] of the colour circle", low=0, high=0.5)] = 0.2
    jitter_prob: Annotated[float, Flag("probability of the colour jitter", low=0, high=1)] = 0.8
    grey_prob: Annotated[float, Flag("probability of a grey view", low=0, high=1)] = 0.2
    gaussian_prob: Annotated[float, Flag("probability of a Gaussian blur", low=0, high=1)] = 0.5
    solarization_prob: Annotated[float, Flag("probability of solarization", low=0, high=1)] = 0.0
    asymmetric_augmentations: Annotated[bool, Flag("BYOL's pair of different augmentations", coming=True)] = False
    n_crops: Annotated[int, Flag("full-size views per image", low=2, coming=True)] = 2
    multicrop: Annotated[bool, Flag("add small crops as further views", coming=True)] = False
    n_small_crops: Annotated[int, Flag("small crops per image under --multicrop", low=1, coming=True)] = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_size < 16 and self.gaussian_prob > 0:
            raise UserError(
                f"--gaussian_prob: got {self.gaussian_prob:g} with --crop_size {self.crop_size}, expected 0: "
                "a blur needs views of at least 16 pixels"
            )
