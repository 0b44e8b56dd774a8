"""What identifies a set of images: a key of their content that needs no decoding."""

import hashlib
import json

import numpy as np

from cl.data.images import ArraySet, FileSet, ImageSet, Subset
from cl.data.sources.walk import stamp


def content_key(images: ImageSet) -> str:
    """A key that changes with any image, the order or the channels; a file is known by path, size and time."""
    return hashlib.sha256(_content(images)).hexdigest()[:16]


def _content(images: ImageSet) -> bytes:
    if isinstance(images, Subset):
        return _content(images.images) + np.ascontiguousarray(images.chosen).tobytes()
    if isinstance(images, FileSet):
        stamps = [stamp(images.path(index)) for index in range(len(images))]
        names = [str(images.path(index).resolve()) for index in range(len(images))]
        return json.dumps([images.channels, stamps, names]).encode()
    if isinstance(images, ArraySet):
        return hashlib.sha256(images.images.contiguous().numpy().tobytes()).digest()
    raise TypeError(f"images of type {type(images).__name__} have no key")
