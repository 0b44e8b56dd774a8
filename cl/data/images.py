"""Images by index, from files or from memory, and the splits of a data set."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from cl.data.decoding.decode import (
    LASTING,
    BrokenFile,
    EncodedImage,
    LazyImage,
    TooLittleMemory,
    as_ppm,
    decode,
    lazy_image,
    portable_image,
    read_file,
)
from cl.data.decoding.modes import BadImage
from cl.data.order.selection import class_counts, count_labelled, drawn_per_class, even_shares
from cl.data.sources.index import open_index
from cl.data.sources.names import FileNames
from cl.data.sources.places import Name
from cl.data.sources.walk import stamp
from cl.data.views.draws import Ints, Labels
from cl.data.views.spec import Norm

_SAMPLE = 0x57A7  # a separate hash stream, for selections of images


class ImageSet(Protocol):
    """Images by index. `targets` has -1 where there is no label."""

    targets: Labels  # [N]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """The image [C, H, W]: uint8, or float32 in [0, 1] of more than three channels."""

    def open(self, index: int) -> LazyImage:
        """The image's size; the image itself is decoded on demand."""

    def encoded(self, index: int) -> EncodedImage:
        """The encoded image, for another decoder."""

    def name(self, index: int) -> str:
        """What a user calls the image: its file, relative to the folder, or its number."""

    def fingerprint(self) -> str:
        """What names these images in this order: the same on another day, another one if an image changes."""


@dataclass(frozen=True)
class Splits:
    """A data set: training and validation images, class names in label order, and the pixels' mean and std."""

    train: ImageSet
    val: ImageSet | None
    classes: tuple[str, ...]  # empty without labels
    norm: Norm
    norm_origin: str = ""  # who says so
    notes: tuple[str, ...] = ()  # warnings for the user
    left_out: tuple[str, ...] = ()  # what was not taken of the folders, and why
    bad: Mapping[Name, str] = field(default_factory=dict)  # skipped files and the reason
    held_out: tuple[str, ...] = ()  # files of --hold_out

    def labelled(self) -> "Splits":
        """Drop the training images without a label: linear evaluation cannot learn from them."""
        if count_labelled(self.train.targets) == len(self.train):
            return self
        return replace(self, train=Subset(self.train, np.flatnonzero(self.train.targets >= 0)))


class ArraySet:
    """Images in memory as one array [N, C, H, W], of the types of ImageSet.read."""

    def __init__(self, images: Tensor, targets: Labels) -> None:
        self.images = images
        self.targets = targets
        self._on_device = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def open(self, index: int) -> LazyImage:
        return LazyImage(self.images.shape[2], self.images.shape[3], lambda: self.read(index))

    def encoded(self, index: int) -> EncodedImage:
        return as_ppm(self.images[index])

    def name(self, index: int) -> str:
        return f"image {index}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.images.dtype} {list(self.images.shape)}".encode())
        for image in self.images:
            digest.update(image.contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def on(self, device: torch.device) -> Tensor:
        """All images on `device`, copied there once."""
        if self._on_device.device != device:
            self._on_device = self.images.to(device)
        return self._on_device


class EncodedSet(ABC):
    """Encoded images, decoded when they are read. A kind of place is a subclass."""

    root: Name  # of all images
    targets: Labels  # [N]
    channels: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def path(self, index: int) -> Name:
        """What names the image to a user."""

    @abstractmethod
    def name(self, index: int) -> str:
        """The same, in the folder or shard in which it lies."""

    @abstractmethod
    def data(self, index: int) -> bytes:
        """The encoded image; OSError, or BrokenFile for more than one image, if it cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str: ...

    @abstractmethod
    def shared(self) -> "Shared | None":
        """What another process of the machine needs to open the same set; None if it has to look for itself."""

    def expect(self, rows: Sequence[int]) -> None:  # noqa: B027 of most there is nothing to do
        """Ask for images that are read next."""

    def group_ends(self) -> Ints | None:
        """[S] images up to the end of each shard, in which neighbours lie beside each other; None for files."""
        return None

    def read(self, index: int) -> Tensor:
        with _errors_name(self.path(index)):
            return decode(self.data(index), self.channels)

    def open(self, index: int) -> LazyImage:
        path = self.path(index)
        with _errors_name(path):
            image = lazy_image(self.data(index), self.channels)

        def pixels() -> Tensor:
            with _errors_name(path):
                return image.pixels()

        return image._replace(pixels=pixels)

    def encoded(self, index: int) -> EncodedImage:
        with _errors_name(self.path(index)):
            return portable_image(self.data(index), self.channels)


class Shared(Protocol):
    """A set of images that other processes can open; small, and pickled."""

    def open(self) -> EncodedSet:
        """OSError if its index is no longer there."""


class FileSet(EncodedSet):
    """Image files."""

    def __init__(
        self, root: Path, files: Sequence[str], targets: Labels, channels: int, index: Path | None = None
    ) -> None:
        self.root: Path = root
        self.index = index  # the folder that names and targets are mapped from; None if they are in memory
        self.targets = targets
        self.channels = channels
        self._names = FileNames.of(files)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.root / self._names[index]

    def data(self, index: int) -> bytes:
        return read_file(self.path(index))

    def name(self, index: int) -> str:
        return self._names[index]

    def fingerprint(self) -> str:
        """Of the name, size and modification time of every file."""
        digest = hashlib.sha256(f"{self.channels}\n".encode())
        for i in range(len(self)):
            digest.update(os.fsencode(self._names[i]) + f" {stamp(self.path(i))}\n".encode())
        return digest.hexdigest()

    def shared(self) -> Shared | None:
        return SharedFiles(self.root, self.channels, self.index) if self.index is not None else None


class SharedFiles(NamedTuple):
    """A FileSet with an index in the user's cache."""

    root: Path
    channels: int
    folder: Path  # of the index

    def open(self) -> FileSet:
        index = open_index(self.folder)
        return FileSet(self.root, index.names, index.targets, self.channels, index.folder)


@contextmanager
def _errors_name(path: Name) -> Iterator[None]:
    """Turn an unreadable image into a BrokenFile that names the file."""
    try:
        yield
    except BadImage as error:
        reason = "" if isinstance(error, TooLittleMemory) else str(error)
        raise BrokenFile(f"{path}: {error}", str(path), reason) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.errno in LASTING else ""
        raise BrokenFile(f"{path}: {error}", str(path), reason) from None


class Subset:
    """A selection of images from a set, under new indices."""

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

    def name(self, index: int) -> str:
        return self.images.name(int(self.chosen[index]))

    def expect(self, rows: Sequence[int]) -> None:
        expect(self.images, self.chosen[list(rows)].tolist())

    def fingerprint(self) -> str:
        chosen = self.chosen.astype(np.int64).tobytes()
        return hashlib.sha256(self.images.fingerprint().encode() + chosen).hexdigest()


def expect(images: ImageSet, rows: Sequence[int]) -> None:
    """Ask for images that are read next, if they are far away."""
    if isinstance(images, EncodedSet | Subset):
        images.expect(rows)


def stratified(images: ImageSet, size: int) -> ImageSet:
    """At most `size` images, the same fraction of each class; the selection is always the same."""
    return _drawn(images, size, *class_counts(images.targets))


def stratified_labelled(images: ImageSet, size: int) -> ImageSet:
    """`stratified` of the images that have a label; all of them for size 0."""
    labels, counts = class_counts(images.targets)
    labelled = labels >= 0
    return _drawn(images, size or len(images), labels[labelled], counts[labelled])


def _drawn(images: ImageSet, size: int, labels: Ints, counts: Ints) -> ImageSet:
    """At most `size` images of `labels` [C], which have `counts` [C] images."""
    size = min(size, int(counts.sum()))
    if size == len(images):
        return images
    return Subset(images, drawn_per_class(images.targets, labels, counts, even_shares(counts, size), _SAMPLE))
