"""The views of a batch as rows: where each is cropped from its image, and how its colours change.

The batched executors (`workers`, `device`, `resident`, `dali`) need nothing else to make a view.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl.config.views import Size, sides
from cl.data.views.draws import Floats, Ints, ViewParams, crop_boxes, draw
from cl.data.views.spec import EvalSpec, Views, ViewSpec

Bools = NDArray[np.bool_]


class Crops(NamedTuple):
    """Geometry of N views: cut a box out of the image, resize it, cut a window out of that, flip it."""

    box: Ints  # [N, 4] top, left, height, width
    resized: Ints  # [N, 2] height, width that the box is resized to
    corner: Ints  # [N, 2] top, left of the window in the resized box
    flip: Bools  # [N]

    def select(self, rows: slice) -> "Crops":
        return Crops._make(values[rows] for values in self)


class Colours(NamedTuple):
    """Colour parameters of N views: jitter, grey, blur and solarize."""

    order: Ints  # [N, 4] the operation at each position: brightness, contrast, saturation, hue (0 to 3), or -1
    factors: Floats  # [N, 4] factors of brightness, contrast, saturation; shift of hue
    grey: Bools  # [N]
    sigma: Floats  # [N] of the blur, 0 for no blur
    solarize: Bools  # [N]

    def select(self, rows: slice) -> "Colours":
        return Colours._make(values[rows] for values in self)

    def is_identity(self) -> bool:
        return not ((self.order >= 0).any() or self.grey.any() or self.sigma.any() or self.solarize.any())


class Resolution(NamedTuple):
    """The views of one size."""

    views: int  # per image
    size: Size
    kernel: int  # of the blur


class Rows(NamedTuple):
    """V views of B images at one resolution: N = V B rows, first all images' first views, then their second views."""

    size: Size
    kernel: int  # of the blur
    crops: Crops
    colours: Colours | None  # None: unchanged
    interpolation: str = "bilinear"  # of the resize


@dataclass(frozen=True)
class RandomViews:
    """Training views, with parameters drawn for (seed, epoch, index, view)."""

    views: Views
    seed: int

    @property
    def interpolation(self) -> str:
        return "bilinear"

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        return tuple(Resolution(len(same), same[0].size, same[0].blur_kernel) for same in self.views)

    def rows(self, epoch: int, index: Ints, sizes: Ints) -> tuple[Rows, ...]:
        """The rows of each resolution, for the images `index` [B] with heights and widths `sizes` [B, 2]."""
        resolutions = []
        number = 0
        for same_size, (_, size, kernel) in zip(self.views, self.resolutions, strict=True):
            crops = []
            colours = []
            for spec in same_size:
                params = draw(spec, self.seed, epoch, index, view=number)
                crops.append(_crops(spec, params, sizes))
                colours.append(_colours(spec, params))
                number += 1
            joined = Colours._make(map(np.concatenate, zip(*colours, strict=True)))
            rows = Rows(
                size=size,
                kernel=kernel,
                crops=Crops._make(map(np.concatenate, zip(*crops, strict=True))),
                colours=None if joined.is_identity() else joined,
            )
            resolutions.append(rows)
        return tuple(resolutions)


@dataclass(frozen=True)
class CentreView:
    """The centre crop, the only view of evaluation."""

    spec: EvalSpec

    @property
    def interpolation(self) -> str:
        return self.spec.interpolation

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        return (Resolution(views=1, size=self.spec.size, kernel=0),)

    def rows(self, epoch: int, index: Ints, sizes: Ints) -> tuple[Rows, ...]:
        """The rows of the only resolution, for images with heights and widths `sizes` [B, 2]."""
        cover = np.array(sides(self.spec.resize))
        # Keeps far more than the window takes, but stops a line of 1 x 1000 pixels from growing to 256 x 256000.
        box = np.minimum(sizes, np.maximum(4 * sizes[:, ::-1] * cover // cover[::-1], 1))
        needs_width = (cover[1] * box[:, 0] > cover[0] * box[:, 1])[:, None]  # covered in width, it is so in height
        resized = np.where(
            needs_width == [False, True],
            cover,
            cover[::-1] * box // box[:, ::-1],
        )
        crops = Crops(
            box=np.concatenate([_centred(sizes, box), box], axis=1),
            resized=resized,
            corner=_centred(resized, np.broadcast_to(sides(self.spec.size), resized.shape)),
            flip=np.zeros(len(sizes), np.bool_),
        )
        return (Rows(self.spec.size, kernel=0, crops=crops, colours=None, interpolation=self.spec.interpolation),)


ViewPlanner = RandomViews | CentreView


def _centred(outer: Ints, inner: Ints) -> Ints:
    """Top and left of a centred window, rounded as in torchvision's center_crop."""
    return np.rint((outer - inner) / 2).astype(np.int64)


def _crops(spec: ViewSpec, params: ViewParams, sizes: Ints) -> Crops:
    return Crops(
        box=crop_boxes(params, spec, height=sizes[:, 0], width=sizes[:, 1]),
        resized=np.tile(sides(spec.size), (len(sizes), 1)),
        corner=np.zeros_like(sizes),
        flip=params.flip,
    )


def _colours(spec: ViewSpec, params: ViewParams) -> Colours:
    """Operations of strength zero are skipped, as in torchvision's ColorJitter."""
    strengths = np.array([spec.brightness, spec.contrast, spec.saturation, spec.hue])
    order = np.where(params.jitter[:, None] & (strengths[params.order] > 0), params.order, -1)
    return Colours(
        order=order,
        factors=params.factors,
        grey=params.grey,
        sigma=np.where(params.blur, params.sigma, 0.0),
        solarize=params.solarize,
    )
