"""The views of a batch as rows: where each is cut out of its image, and what happens to its colours.

This is all that the batched executors (`workers`, `device`, `resident`, `dali`) know of a view.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl.data.views.draws import Floats, Ints, ViewParams, crop_boxes, draw
from cl.data.views.spec import EvalSpec, Views, ViewSpec

Bools = NDArray[np.bool_]


class Crops(NamedTuple):
    """Of N views: cut a box out of the image, resize it, take a window of that, mirror it."""

    box: Ints  # [N, 4] top, left, height, width
    resized: Ints  # [N, 2] height, width that the box is resized to
    corner: Ints  # [N, 2] top, left of the window in that
    flip: Bools  # [N]

    def part(self, rows: slice) -> "Crops":
        return Crops._make(each[rows] for each in self)


class Colours(NamedTuple):
    """Of N views: everything from colour on."""

    order: Ints  # [N, 4] which of brightness, contrast, saturation, hue (0 to 3) comes first, second, ...; -1 for none
    factors: Floats  # [N, 4] of brightness, contrast, saturation; the shift of hue
    grey: Bools  # [N]
    sigma: Floats  # [N] of the blur, 0 for none
    solarize: Bools  # [N]

    def part(self, rows: slice) -> "Colours":
        return Colours._make(each[rows] for each in self)


class Rows(NamedTuple):
    """V views of B images at one resolution: N = V B rows, the first view of every image before the second of any."""

    size: int
    kernel: int  # of the blur
    crops: Crops
    colours: Colours | None  # None: as they are


@dataclass(frozen=True)
class RandomViews:
    """Training views, drawn for (seed, epoch, index, view)."""

    views: Views
    seed: int

    def rows(self, epoch: int, index: Ints, sizes: Ints) -> tuple[Rows, ...]:
        """Per resolution, of the images `index` [B], whose height and width are `sizes` [B, 2]."""
        found = []
        number = 0
        for same_size in self.views:
            drawn = [(spec, draw(spec, self.seed, epoch, index, number + v)) for v, spec in enumerate(same_size)]
            crops = [_crops(spec, params, sizes) for spec, params in drawn]
            colours = [_colours(spec, params) for spec, params in drawn]
            changed = any((each.order >= 0).any() or any(map(np.any, each[2:])) for each in colours)
            joined = Colours(*map(np.concatenate, zip(*colours, strict=True))) if changed else None
            size = same_size[0].size
            kernel = same_size[0].blur_kernel
            found.append(Rows(size, kernel, Crops(*map(np.concatenate, zip(*crops, strict=True))), joined))
            number += len(same_size)
        return tuple(found)


@dataclass(frozen=True)
class CentreView:
    """The one view of evaluation."""

    spec: EvalSpec

    def rows(self, epoch: int, index: Ints, sizes: Ints) -> tuple[Rows, ...]:
        """Per resolution (there is one), of images whose height and width are `sizes` [B, 2]."""
        # Far more than the window will take stays, but a line of 1 x 1000 pixels does not become 256 x 256000.
        box = np.minimum(sizes, 4 * sizes.min(axis=1, keepdims=True))
        short = box.min(axis=1, keepdims=True)
        resized = np.where(box == short, self.spec.resize, self.spec.resize * box // short)
        places = Crops(
            box=np.concatenate([_centred(sizes, box), box], axis=1),
            resized=resized,
            corner=_centred(resized, np.full_like(resized, self.spec.size)),
            flip=np.zeros(len(sizes), np.bool_),
        )
        return (Rows(self.spec.size, 0, places, None),)


ViewPlanner = RandomViews | CentreView


def _centred(outer: Ints, inner: Ints) -> Ints:
    """Top and left of the centre, as torchvision's center_crop rounds them."""
    return np.rint((outer - inner) / 2).astype(np.int64)


def _crops(spec: ViewSpec, params: ViewParams, sizes: Ints) -> Crops:
    nowhere = np.zeros_like(sizes)
    box = crop_boxes(params, spec, sizes[:, 0], sizes[:, 1])
    return Crops(box, nowhere + spec.size, nowhere, params.flip)


def _colours(spec: ViewSpec, params: ViewParams) -> Colours:
    """An operation of strength zero is left out, as in torchvision's ColorJitter."""
    strengths = np.array([spec.brightness, spec.contrast, spec.saturation, spec.hue])
    order = np.where(params.jitter[:, None] & (strengths[params.order] > 0), params.order, -1)
    return Colours(order, params.factors, params.grey, np.where(params.blur, params.sigma, 0.0), params.solarize)
