from dataclasses import dataclass
from operator import ge
from typing import Annotated, Any

from cl.config.flags import Config, Flag, as_typed
from cl.errors import UserError

Size = int | tuple[int, int]  # side of a square, or height and width


def sides(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def as_size(value: Any) -> Size:
    """A size from JSON; TypeError or ValueError for anything else."""
    if isinstance(value, list | tuple):
        height, width = map(int, value)
        return height, width
    return int(value)


def in_pixels(size: Size) -> str:
    """A size in words."""
    return f"{size} pixels" if isinstance(size, int) else f"{size[0]} x {size[1]} pixels"


@dataclass(frozen=True)
class ViewsConfig(Config):
    """Training views."""

    crop_size: Annotated[Size, Flag("side of a view in pixels, or height and width", low=4, high=4096)] = 224
    min_scale: Annotated[float, Flag("smallest fraction of the image's area that a crop covers", above=0, high=1)] = (
        0.08
    )
    flip_prob: Annotated[float, Flag("probability of a horizontal flip", low=0, high=1)] = 0.5
    eval_resize: Annotated[
        Size | None,
        Flag(
            "side in pixels, or height and width, that images just cover in evaluation, before the centre is cropped; "
            "by default 8/7 of --crop_size, or no more than it up to 64 pixels",
            low=4,
            high=8192,
        ),
    ] = None
    eval_interpolation: Annotated[
        str, Flag("interpolation of the resize in evaluation", choices=("bilinear", "bicubic"))
    ] = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        covered = self.eval_resize is None or all(map(ge, sides(self.eval_resize), sides(self.crop_size)))
        if not covered:
            raise UserError(
                f"--eval_resize: got {as_typed(self.eval_resize)}, expected at least --crop_size "
                f"{as_typed(self.crop_size)}"
            )


@dataclass(frozen=True)
class PretrainViewsConfig(ViewsConfig):
    """Views. Defaults are SimCLR's for ImageNet (arXiv 2002.05709, appendix A)."""

    brightness: Annotated[float, Flag("jitter strength: factor in [1 - x, 1 + x]", low=0, high=10)] = 0.8
    contrast: Annotated[float, Flag("jitter strength: factor in [1 - x, 1 + x]", low=0, high=10)] = 0.8
    saturation: Annotated[float, Flag("jitter strength: factor in [1 - x, 1 + x]", low=0, high=10)] = 0.8
    hue: Annotated[float, Flag("jitter strength: shift in [-x, x] of the colour circle", low=0, high=0.5)] = 0.2
    jitter_prob: Annotated[float, Flag("probability of the colour jitter", low=0, high=1)] = 0.8
    grey_prob: Annotated[float, Flag("probability of a grey view", low=0, high=1)] = 0.2
    gaussian_prob: Annotated[
        tuple[float, ...],
        Flag(
            "probability of a Gaussian blur; of two values, views alternate between them; with --multicrop, of three "
            "values the first full-size view has the first, the second the second, and small crops the third",
            low=0,
            high=1,
        ),
    ] = (0.5,)
    solarization_prob: Annotated[
        tuple[float, ...],
        Flag("probability of solarization; of several values, as --gaussian_prob", low=0, high=1),
    ] = (0.0,)
    asymmetric_augmentations: Annotated[
        bool, Flag("different augmentations for the two views, as in BYOL and Barlow Twins")
    ] = False
    n_crops: Annotated[int, Flag("full-size views per image", low=1, high=100)] = 2
    multicrop: Annotated[bool, Flag("add small crops as further views (SwAV)")] = False
    n_small_crops: Annotated[int, Flag("small crops per image under --multicrop", low=1, high=100)] = 6
    small_crop_size: Annotated[Size, Flag("side of a small crop in pixels, or height and width", low=4, high=4096)] = 96
    small_scale: Annotated[
        tuple[float, ...], Flag("smallest and largest fraction of the area that a small crop covers", above=0, high=1)
    ] = (0.05, 0.14)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [self.crop_size] * self.n_crops + [self.small_crop_size] * self.n_small_crops * self.multicrop
        blurred = [min(sides(size)) for view, size in enumerate(sizes) if self.of_view(view, self.gaussian_prob)]
        smallest = min(blurred, default=16)
        if smallest < 16:
            raise UserError(
                f"--gaussian_prob: got {as_typed(self.gaussian_prob)} with views of {smallest} pixels, expected 0: "
                "a blur needs at least 16"
            )
        if len(self.small_scale) != 2 or self.small_scale[0] > self.small_scale[1]:
            raise UserError(
                f"--small_scale: got {as_typed(self.small_scale)}, expected two numbers in order: 0.05 0.14"
            )

    def of_view(self, view: int, values: tuple[float, ...]) -> float:
        """The value of view number `view`, full-size views first: its kind's (DINO), or one after the other."""
        if self.multicrop and len(values) == 3:
            return values[2] if view >= self.n_crops else values[view % 2]
        return values[view % len(values)]
