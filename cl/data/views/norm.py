"""Mean and standard deviation of a data set's pixels."""

import torch
from torch import Tensor

from cl.config.data import COLOURS
from cl.data.decoding.decode import BrokenFile
from cl.data.images import ImageSet, expect, stratified
from cl.data.views.spec import Norm

NORM_IMAGES = 2000  # images that mean and std are measured on
AHEAD = 64  # images that are asked for before the first of them is read


def measure_norm(images: ImageSet, trusted: bool = False) -> Norm:
    """Mean and std per channel in [0, 1], of at most 2000 images with equal weight; `trusted` ones may be broken.

    Four decimals, or six for more than three channels: those of a satellite fill a tenth of 16 bits or less.
    """
    sample = stratified(images, NORM_IMAGES)
    means: list[Tensor] = []
    mean_squares = []
    for i in range(len(sample)):
        if i % AHEAD == 0:
            expect(sample, range(i, min(i + AHEAD, len(sample))))
        try:
            image = sample.read(i).flatten(1)
        except BrokenFile as broken:
            if not trusted or not broken.reason or (i + 1 == len(sample) and not means):
                raise
            continue
        pixels = image.double() if image.is_floating_point() else image.double() / 255
        means.append(pixels.mean(dim=1))
        mean_squares.append(pixels.square().mean(dim=1))
    mean = torch.stack(means).mean(dim=0)
    digits = 4 if len(mean) <= COLOURS else 6
    smallest = 1e-3 if len(mean) <= COLOURS else 1e-5  # of a constant channel
    std = (torch.stack(mean_squares).mean(dim=0) - mean.square()).clamp(min=smallest**2).sqrt()
    return tuple(round(x, digits) for x in mean.tolist()), tuple(round(x, digits) for x in std.tolist())
