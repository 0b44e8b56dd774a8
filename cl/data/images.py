"""Images by index, wherever they lie; and what a data set is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from cl.data.decode import BadImage, BrokenFile, EncodedImage, LazyImage, as_ppm, lazy_image, portable_image, read_image
from cl.data.views.draws import Ints, hash_words
from cl.data.views.spec import Norm

T = TypeVar("T")
MEASURED = 2000  # images that a mean and std are measured on


class ImageSet(Protocol):
    """Images by index. `targets` has -1 where there is no label."""

    targets: Ints  # [N]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """The image as uint8 [C, H, W]."""

    def open(self, index: int) -> LazyImage:
        """The image's size, and the image when it is wanted."""

    def encoded(self, index: int) -> EncodedImage:
        """The image for a decoder other than ours."""


@dataclass(frozen=True)
class Splits:
    """A data set: training and validation images, class names in label order, and the pixels' mean and std."""

    train: ImageSet
    val: ImageSet | None
    classes: tuple[str, ...]  # none without labels
    norm: Norm
    notes: tuple[str, ...] = ()  # what the user should know
    bad: Mapping[Path, str] = field(default_factory=dict)  # files that were left out, and why

    def labelled(self) -> "Splits":
        """Without the training images that have no label: linear evaluation cannot learn from them."""
        chosen = np.flatnonzero(self.train.targets >= 0)
        return self if len(chosen) == len(self.train) else replace(self, train=Subset(self.train, chosen))


class ArraySet:
    """Images that lie in memory as one array: uint8 [N, C, H, W]."""

    def __init__(self, images: Tensor, targets: Ints) -> None:
        self.images = images
        self.targets = targets
        self._moved = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def open(self, index: int) -> LazyImage:
        return LazyImage(self.images.shape[2], self.images.shape[3], lambda: self.read(index))

    def encoded(self, index: int) -> EncodedImage:
        return as_ppm(self.images[index])

    def on(self, device: torch.device) -> Tensor:
        """All images on `device`, moved there once."""
        if self._moved.device != device:
            self._moved = self.images.to(device)
        return self._moved


class FileSet:
    """Image files, decoded when they are read."""

    def __init__(self, root: Path, files: Sequence[str], targets: Ints, channels: int) -> None:
        self.root = root
        self.targets = targets
        self.channels = channels
        # One array, for a list of a million strings is copied into every worker as its counts change (pytorch#13246).
        self._names = np.array([name.encode(errors="surrogateescape") for name in files])

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.root / self._names[index].decode(errors="surrogateescape")

    def read(self, index: int) -> Tensor:
        return self._named(index, lambda path: read_image(path, self.channels))

    def open(self, index: int) -> LazyImage:
        found = self._named(index, lambda path: lazy_image(path.read_bytes(), self.channels))
        return found._replace(pixels=lambda: self._named(index, lambda _: found.pixels()))

    def encoded(self, index: int) -> EncodedImage:
        return self._named(index, lambda path: portable_image(path.read_bytes(), self.channels))

    def _named(self, index: int, read: Callable[[Path], T]) -> T:
        """A failure says which file it is of."""
        path = self.path(index)
        try:
            return read(path)
        except (BadImage, OSError) as error:
            raise BrokenFile(f"{path}: {error}") from None


class Subset:
    """Some images of a set, under new indices."""

    def __init__(self, images: ImageSet, chosen: Ints) -> None:
        self.images = images
        self.chosen = chosen
        self.targets = images.targets[chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> Tensor:
        return self.images.read(int(self.chosen[index]))

    def open(self, index: int) -> LazyImage:
        return self.images.open(int(self.chosen[index]))

    def encoded(self, index: int) -> EncodedImage:
        return self.images.encoded(int(self.chosen[index]))


def stratified(images: ImageSet, size: int) -> ImageSet:
    """At most `size` images, the same share of each class, and always the same ones."""
    if size >= len(images):
        return images
    order = np.argsort(hash_words(0x57A7, np.arange(len(images))), kind="stable")
    by_class = order[np.argsort(images.targets[order], kind="stable")]
    places = np.floor((np.arange(size) + 0.5) * len(images) / size).astype(np.int64)  # evenly over the sorted labels
    return Subset(images, np.sort(by_class[places]))


def measure_norm(images: ImageSet) -> Norm:
    """Mean and std of each channel in [0, 1] of the pixels of at most 2000 images, which all weigh the same."""
    some = stratified(images, MEASURED)
    first, second = [], []
    for i in range(len(some)):
        pixels = some.read(i).flatten(1).double() / 255
        first.append(pixels.mean(dim=1))
        second.append(pixels.square().mean(dim=1))
    mean = torch.stack(first).mean(dim=0)
    std = (torch.stack(second).mean(dim=0) - mean.square()).clamp(min=1e-6).sqrt()
    return tuple(round(x, 4) for x in mean.tolist()), tuple(round(x, 4) for x in std.tolist())
