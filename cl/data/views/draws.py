"""The random draws of a view: a hash of (seed, epoch, index, view), the only source of augmentation randomness.

There is no state, so the stream is the same for any number of workers or processes, any loader and any resume point.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl.data.views.spec import SIGMA, ViewSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.signedinteger[Any]]  # int64, or the smallest type that holds them all
Words = NDArray[np.uint64]

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop tries this often before it falls back to the centre
JITTER_ORDERS = np.array(list(itertools.permutations(range(4))))  # [24, 4] of brightness, contrast, saturation, hue

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class ViewParams(NamedTuple):
    """Parameters drawn for one view of B images. Crops are drawn before the image size is known: see `crop_boxes`."""

    area: Floats  # [B, 10] fraction of the image's area, per attempt
    ratio: Floats  # [B, 10] width : height, per attempt
    position: Floats  # [B, 10, 2] top and left in [0, 1) of the room that the crop leaves, per attempt
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
    """Draw the parameters of view number `view` of the images `index` [B] in `epoch`.

    The distributions are torchvision's (RandomResizedCrop, ColorJitter, GaussianBlur). Every parameter has its own slot
    of the hash, so changing a probability or range changes no other draw.
    """
    key = hash_words(seed, epoch, index, view)  # [B]
    slots = np.arange(4 * CROP_ATTEMPTS + 12, dtype=np.int64)
    bits = splitmix64(key[:, None] ^ splitmix64(slots.astype(np.uint64)))
    u = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [B, slots] uniform in [0, 1)
    crop = u[:, : 4 * CROP_ATTEMPTS].reshape(len(index), CROP_ATTEMPTS, 4)
    other = u[:, 4 * CROP_ATTEMPTS :]
    log_ratio = np.log(spec.ratio)
    strengths = np.array([spec.brightness, spec.contrast, spec.saturation])
    low = np.maximum(0.0, 1.0 - strengths)
    factors = low + (1.0 + strengths - low) * other[:, 0:3]
    hue = spec.hue * (2.0 * other[:, 3:4] - 1.0)
    return ViewParams(
        area=spec.scale[0] + (spec.scale[1] - spec.scale[0]) * crop[:, :, 0],
        ratio=np.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * crop[:, :, 1]),
        position=crop[:, :, 2:4],
        flip=other[:, 4] < spec.flip_prob,
        jitter=other[:, 5] < spec.jitter_prob,
        factors=np.concatenate([factors, hue], axis=1),
        order=JITTER_ORDERS[(other[:, 6] * len(JITTER_ORDERS)).astype(np.int64)],
        grey=other[:, 7] < spec.grey_prob,
        blur=other[:, 8] < spec.blur_prob,
        sigma=SIGMA[0] + (SIGMA[1] - SIGMA[0]) * other[:, 9],
        solarize=other[:, 10] < spec.solarize_prob,
    )


def crop_boxes(params: ViewParams, spec: ViewSpec, height: Ints, width: Ints) -> Ints:
    """Top, left, height and width [B, 4] of the crops in images of `height` [B] and `width` [B] pixels.

    The first attempt that fits, else the largest centre crop with an allowed ratio, as in RandomResizedCrop.
    """
    pixels = (height * width)[:, None] * params.area
    w = np.rint(np.sqrt(pixels * params.ratio)).astype(np.int64)  # [B, 10]
    h = np.rint(np.sqrt(pixels / params.ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    rows = np.arange(len(fits))
    first = fits.argmax(axis=1)
    w = w[rows, first]
    h = h[rows, first]
    room = np.stack([height - h, width - w], axis=1)
    corner = np.floor(params.position[rows, first] * (room + 1)).astype(np.int64)
    boxes = np.concatenate([corner, np.stack([h, w], axis=1)], axis=1)
    return np.where(fits.any(axis=1, keepdims=True), boxes, _centre_boxes(spec, height, width))


def _centre_boxes(spec: ViewSpec, height: Ints, width: Ints) -> Ints:
    narrowest, widest = spec.ratio
    ratio = width / height
    h = np.where(ratio < narrowest, np.maximum(np.rint(width / narrowest), 1), height).astype(np.int64)
    w = np.where(ratio > widest, np.maximum(np.rint(height * widest), 1), width).astype(np.int64)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)
