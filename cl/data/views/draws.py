"""The random draws of a view: one hash of (seed, epoch, index, view), and the only source of augmentation randomness.

Nothing has a state, so the stream is the same whatever the workers, processes, loader or point of resume.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl.data.views.spec import ViewSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop tries so often before it takes the centre
JITTER_ORDERS = np.array(list(itertools.permutations(range(4))))  # [24, 4] of brightness, contrast, saturation, hue

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class ViewParams(NamedTuple):
    """What was drawn for one view of B images. Crops are drawn before an image's size is known: see `crop_boxes`."""

    area: Floats  # [B, 10] share of the image's area, per attempt
    ratio: Floats  # [B, 10] width : height, per attempt
    place: Floats  # [B, 10, 2] top and left in [0, 1) of what the crop leaves free, per attempt
    flip: NDArray[np.bool_]  # [B]
    jitter: NDArray[np.bool_]  # [B]
    factors: Floats  # [B, 4] brightness, contrast, saturation (factors) and hue (shift)
    order: Ints  # [B, 4] the order in which the four are applied
    grey: NDArray[np.bool_]  # [B]
    blur: NDArray[np.bool_]  # [B]
    sigma: Floats  # [B] pixels
    solarize: NDArray[np.bool_]  # [B]


def splitmix64(x: Words) -> Words:
    """Mix 64 bits: any shape of uint64 -> the same shape (Steele, Lea, Flood 2014: the output function of SplitMix)."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def hash_words(*parts: int | Ints) -> Words:
    """One word per element of the broadcast parts, each part mixed in turn."""
    word = np.zeros((), np.uint64)
    for part in parts:
        word = splitmix64(word ^ np.asarray(part, np.int64).astype(np.uint64))
    return word


def draw(spec: ViewSpec, seed: int, epoch: int, index: Ints, view: int) -> ViewParams:
    """Parameters of view number `view` of the images `index` [B] in `epoch`.

    The distributions are torchvision's (RandomResizedCrop, ColorJitter, GaussianBlur). Every parameter has its own slot
    of the hash, so that a changed probability or range changes no other draw.
    """
    key = hash_words(seed, epoch, index, view)  # [B]
    slots = np.arange(4 * CROP_ATTEMPTS + 12, dtype=np.int64)
    bits = splitmix64(key[:, None] ^ splitmix64(slots.astype(np.uint64)))
    u = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [B, slots] uniform in [0, 1)
    crop = u[:, : 4 * CROP_ATTEMPTS].reshape(len(index), CROP_ATTEMPTS, 4)
    rest = u[:, 4 * CROP_ATTEMPTS :]
    log_ratio = np.log(spec.ratio)
    strengths = np.array([spec.brightness, spec.contrast, spec.saturation])
    low = np.maximum(0.0, 1.0 - strengths)
    factors = low + (1.0 + strengths - low) * rest[:, 0:3]
    hue = spec.hue * (2.0 * rest[:, 3:4] - 1.0)
    return ViewParams(
        area=spec.scale[0] + (spec.scale[1] - spec.scale[0]) * crop[:, :, 0],
        ratio=np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * crop[:, :, 1]),
        place=crop[:, :, 2:4],
        flip=rest[:, 4] < spec.flip_prob,
        jitter=rest[:, 5] < spec.jitter_prob,
        factors=np.concatenate([factors, hue], axis=1),
        order=JITTER_ORDERS[(rest[:, 6] * len(JITTER_ORDERS)).astype(np.int64)],
        grey=rest[:, 7] < spec.grey_prob,
        blur=rest[:, 8] < spec.blur_prob,
        sigma=spec.sigma[0] + (spec.sigma[1] - spec.sigma[0]) * rest[:, 9],
        solarize=rest[:, 10] < spec.solarize_prob,
    )


def crop_boxes(params: ViewParams, spec: ViewSpec, height: Ints, width: Ints) -> Ints:
    """[B, 4] top, left, height, width of the crop in images of `height` [B] and `width` [B] pixels.

    The first attempt that fits, else the largest centre crop whose ratio is allowed: torchvision's RandomResizedCrop.
    """
    pixels = (height * width)[:, None] * params.area
    w = np.rint(np.sqrt(pixels * params.ratio)).astype(np.int64)  # [B, 10]
    h = np.rint(np.sqrt(pixels / params.ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    rows = np.arange(len(fits))
    first = fits.argmax(axis=1)
    w, h = w[rows, first], h[rows, first]
    free = np.stack([height - h, width - w], axis=1)
    corner = np.floor(params.place[rows, first] * (free + 1)).astype(np.int64)
    boxes = np.concatenate([corner, np.stack([h, w], axis=1)], axis=1)
    return np.where(fits.any(axis=1, keepdims=True), boxes, _centre(spec, height, width))


def _centre(spec: ViewSpec, height: Ints, width: Ints) -> Ints:
    narrowest, widest = spec.ratio
    ratio = width / height
    h = np.where(ratio < narrowest, np.maximum(np.rint(width / narrowest), 1), height).astype(np.int64)
    w = np.where(ratio > widest, np.maximum(np.rint(height * widest), 1), width).astype(np.int64)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)
