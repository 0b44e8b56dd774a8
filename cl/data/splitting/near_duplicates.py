"""Near duplicates: bursts, copies of another size or quality. They must not lie on both sides of a split."""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cl.data.images import ImageSet
from cl.data.splitting.kept_arrays import kept
from cl.machine.home import cache_folder

SIDE = 16  # pixels of a thumbnail
# Cosine of two thumbnails. Copies of photographs of clothes that are darker or noisier have 1.00, moved by 3 % 0.97,
# turned by 3 degrees 0.96, cut by 10 % 0.90 (medians); 80 pairs of the 840 photographs are above it, of like clothes on
# the same cloth. A pair that is no duplicate only has both images on the same side.
NEAR = 0.9


def thumbnails(images: ImageSet) -> NDArray[np.float32]:
    """[N, D] thumbnails with mean 0 and length 1, kept in the user's cache; a constant image has length 0."""
    folder = cache_folder()
    path = folder / f"thumbnails-{images.fingerprint()[:16]}.npz" if folder is not None else None
    return kept(path, lambda: {"thumbnails": _thumbnails(images)})["thumbnails"]


def _thumbnails(images: ImageSet) -> NDArray[np.float32]:
    numbers = tqdm(range(len(images)), "looking for near duplicates", leave=False, disable=not sys.stderr.isatty())
    return torch.stack([_thumbnail(images.read(index)) for index in numbers]).numpy()


def _thumbnail(image: Tensor) -> Tensor:
    small = F.interpolate(image[None].float(), (SIDE, SIDE), mode="area").flatten()
    return F.normalize(small - small.mean(), dim=0)


def group_of(thumbs: NDArray[np.float32], start: int, limit: int) -> NDArray[np.int64]:
    """The images that a chain of near duplicates links to image `start`, itself included; more than `limit` if longer.

    Args:
        thumbs: [N, D] of unit length.
        start: an index into them.
        limit: the search ends as soon as it has found more.
    """
    found = np.zeros(len(thumbs), np.bool_)
    found[start] = True
    newest = np.array([start])
    while len(newest) and found.sum() <= limit:
        near = (thumbs @ thumbs[newest].T > NEAR).any(axis=1) & ~found
        found |= near
        newest = np.flatnonzero(near)
    return np.flatnonzero(found)
