"""Specifications of views. Executors apply them with drawn parameters and decide nothing themselves."""

from dataclasses import dataclass

from cl.config.views import PretrainViewsConfig, Size, ViewsConfig, sides

Norm = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std per channel, of pixels in [0, 1]

DISTORTION = (3 / 4, 4 / 3)  # width : height of a crop, where 1 has the shape of the view
SIGMA = (0.1, 2.0)  # of blur, in pixels


@dataclass(frozen=True)
class ViewSpec:
    """A random view: crop, flip, colour jitter, grey, blur, solarize, in this order (SimCLR's)."""

    size: Size
    scale: tuple[float, float] = (0.08, 1.0)  # fraction of the area
    flip_prob: float = 0.5
    jitter_prob: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey_prob: float = 0.0
    blur_prob: float = 0.0
    solarize_prob: float = 0.0

    @property
    def ratio(self) -> tuple[float, float]:
        """Smallest and largest width : height of a crop."""
        height, width = sides(self.size)
        return DISTORTION[0] * (width / height), DISTORTION[1] * (width / height)

    @property
    def blur_kernel(self) -> int:
        """A tenth of the shorter side, odd: 23 at 224 pixels (SimCLR, appendix A)."""
        return max(3, 2 * int(0.1 * min(sides(self.size)) / 2) + 1)


@dataclass(frozen=True)
class EvalSpec:
    """The deterministic view of evaluation: resize an image until it just covers `resize`, crop the centre."""

    size: Size
    cover: Size | None = None  # in pixels, before the crop; None for the rule of `resize`
    interpolation: str = "bilinear"  # or bicubic; antialiased

    @property
    def resize(self) -> Size:
        """256 for 224 as in the papers; small images are not cropped."""
        if self.cover is not None:
            return self.cover
        height, width = sides(self.size)
        if max(height, width) <= 64:
            return self.size
        return _margin(height) if height == width else (_margin(height), _margin(width))


def _margin(side: int) -> int:
    return round(side * 256 / 224)


Views = tuple[tuple[ViewSpec, ...], ...]  # per resolution, the views in order


def evaluation_view(config: ViewsConfig) -> EvalSpec:
    return EvalSpec(config.crop_size, config.eval_resize, config.eval_interpolation)


def linear_views(config: ViewsConfig) -> Views:
    """Crop and flip: the training view of linear evaluation."""
    return ((ViewSpec(config.crop_size, (config.min_scale, 1.0), flip_prob=config.flip_prob),),)


def pretrain_views(config: PretrainViewsConfig) -> Views:
    """The views of an image that the flags describe: full-size views, then small crops of smaller areas (SwAV)."""
    full_scale = (config.min_scale, 1.0)
    full = tuple(_view(config, number, config.crop_size, full_scale) for number in range(config.n_crops))
    if not config.multicrop:
        return (full,)
    low, high = config.small_scale
    numbers = range(config.n_crops, config.n_crops + config.n_small_crops)
    return full, tuple(_view(config, number, config.small_crop_size, (low, high)) for number in numbers)


def _view(config: PretrainViewsConfig, number: int, size: Size, scale: tuple[float, float]) -> ViewSpec:
    return ViewSpec(
        size=size,
        scale=scale,
        flip_prob=config.flip_prob,
        jitter_prob=config.jitter_prob,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
        grey_prob=config.grey_prob,
        blur_prob=config.of_view(number, config.gaussian_prob),
        solarize_prob=config.of_view(number, config.solarization_prob),
    )
