"""Intervals of accuracies and of paired differences. Pure functions on arrays of right and wrong answers.

`right` is [R, n]: whether test image i was classified correctly with draw r of the labelled images. A column without
draws (kNN, the linear head on all labels) has R = 1. Everything is a fraction, not percent.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of every interval
TAIL = (1 + LEVEL) / 2

Answers = NDArray[np.bool_]  # [R, n]
Differences = NDArray[np.float64]  # [R, n]


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def over_images_and_draws(d: Differences) -> Interval:
    """The mean of d [R, n], with R and n at least 2, for other images and other draws of the labels.

    The variance of the mean is v_img + v_draw: the variance over images of their means over the draws, divided by n,
    and the variance over draws of their means over the images, divided by R. The degrees of freedom are those of
    Satterthwaite. Images alone (a bootstrap of them) or draws alone leave one of the two out: too narrow.
    """
    from scipy.stats import t

    draws, images = d.shape
    v_img = float(d.mean(axis=0).var(ddof=1)) / images
    v_draw = float(d.mean(axis=1).var(ddof=1)) / draws
    mean = float(d.mean())
    variance = v_img + v_draw
    if variance == 0:
        return Interval(mean, mean, mean)
    freedom = variance**2 / (v_img**2 / (images - 1) + v_draw**2 / (draws - 1))
    half = float(t.ppf(TAIL, freedom)) * variance**0.5
    return Interval(mean, mean - half, mean + half)


def over_images(d: Differences) -> Interval:
    """The mean of d [1, n], n at least 2, for other images: v_img alone, with n - 1 degrees of freedom."""
    from scipy.stats import t

    images = d.shape[1]
    mean = float(d.mean())
    half = float(t.ppf(TAIL, images - 1)) * (float(d.var(ddof=1)) / images) ** 0.5
    return Interval(mean, mean - half, mean + half)


def mcnemar(d: Differences) -> Interval:
    """The mean of d [1, n] in {-1, 0, 1}; the interval excludes 0 if and only if the exact McNemar test rejects.

    Of the m images that only one of two networks classifies correctly, the second one has a share p. It is the interval
    of p by Clopper and Pearson, as a difference of accuracies: (2 p - 1) m / n.
    """
    from scipy.stats import binomtest

    images = d.shape[1]
    gained = int((d > 0).sum())
    lost = int((d < 0).sum())
    if gained + lost == 0:
        return Interval(0.0, 0.0, 0.0)
    p = binomtest(gained, gained + lost).proportion_ci(LEVEL, method="exact")
    scale = (gained + lost) / images
    return Interval((gained - lost) / images, float(2 * p.low - 1) * scale, float(2 * p.high - 1) * scale)


def wilson(right: Answers) -> Interval:
    """The accuracy of answers [1, n] by Wilson's interval, which has a width at 0 and at 100 %, too."""
    from scipy.stats import binomtest

    images = right.shape[1]
    p = binomtest(int(right.sum()), images).proportion_ci(LEVEL, method="wilson")
    return Interval(float(right.mean()), float(p.low), float(p.high))


def accuracy(right: Answers) -> Interval:
    """The accuracy of answers [R, n] and its interval within [0, 1]."""
    if len(right) == 1:
        return wilson(right)
    found = over_images_and_draws(right.astype(np.float64))
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def paired(a: Answers, b: Answers) -> Differences:
    """D [R, n] in {-1, 0, 1}: right of b minus right of a, for the same images and the same draws."""
    return b.astype(np.float64) - a.astype(np.float64)
