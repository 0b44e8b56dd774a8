"""`--cache`: smaller copies of image files, written once and shared by all processes and runs.

A cache is a folder of two files, `pixels` and `index.npy`, with `about.json` beside them. It gets its name when it is
complete, so one that was broken off is never taken for a cache; and it is written anew when a source file has changed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cl.data.decode import EncodedImage, LazyImage, as_ppm
from cl.data.images import FileSet
from cl.data.sources.manifest import cache_folder, stamp
from cl.data.views.draws import Ints
from cl.errors import UserError

SHORT_SIDE = 256  # pixels; smaller images stay as they are
QUALITY = 92  # of jpeg256
VERSION = 1


def cached(images: FileSet, kind: str, folder: str | None, workers: int) -> "CachedSet":
    """`images` out of their cache, which is written first if there is none for these files as they are now."""
    parent = Path(folder) if folder is not None else cache_folder()
    key = hashlib.sha256(os.fsencode(images.root.resolve()) + f" {kind} {images.channels}".encode()).hexdigest()[:16]
    place = parent / f"{kind}-{key}"
    about = {"version": VERSION, "files": len(images), "state": _state(images)}
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _alone(parent / f".{place.name}.lock"):
            if not _is(place, about):
                _write(images, kind, place, about, workers)
        return CachedSet(place, kind, images.targets, images.channels)
    except OSError as error:
        raise UserError(
            f"--cache_dir: got {parent}, expected a folder that can hold the cache {kind} ({error.strerror})"
        ) from None


def _state(images: FileSet) -> str:
    """A digest of every file's name, size and time of change."""
    digest = hashlib.sha256()
    for i in range(len(images)):
        path = images.path(i)
        digest.update(os.fsencode(path.relative_to(images.root)) + f" {stamp(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time, of this run or another; the system lets go of the lock of one that was killed."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is(place: Path, about: dict[str, Any]) -> bool:
    try:
        index = np.load(place / "index.npy")
        whole = int(index[-1, :2].sum()) == (place / "pixels").stat().st_size
        return whole and json.loads((place / "about.json").read_text()) == about
    except (OSError, ValueError):
        return False


def _write(images: FileSet, kind: str, place: Path, about: dict[str, Any], workers: int) -> None:
    for left in place.parent.glob(f"{place.name}.part*"):  # of a process that was killed: the lock is ours
        shutil.rmtree(left)
    part = place.with_name(f"{place.name}.part")
    part.mkdir()
    try:
        _fill(images, kind, part, workers)
        (part / "about.json").write_text(json.dumps(about))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(part, place)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _fill(images: FileSet, kind: str, part: Path, workers: int) -> None:
    """`pixels`, one image after another, and `index.npy` [N, 4]: offset, bytes, height, width."""
    reads = DataLoader(_Small(images, kind), num_workers=workers, batch_size=16, collate_fn=list)
    index = []
    offset = 0
    quiet = not sys.stderr.isatty()
    written = tqdm(chain.from_iterable(reads), f"caching {images.root}", len(images), False, disable=quiet)
    with (part / "pixels").open("wb") as file:
        for each in written:
            file.write(each.data)
            index.append((offset, len(each.data), each.height, each.width))
            offset += len(each.data)
        file.flush()
        os.fsync(file.fileno())
    np.save(part / "index.npy", np.array(index, np.int64))


class _Small(Dataset[EncodedImage]):
    """The images as they are cached, made by workers."""

    def __init__(self, images: FileSet, kind: str) -> None:
        self.images = images
        self.kind = kind

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> EncodedImage:
        pixels = smaller(self.images.read(index)).permute(1, 2, 0).contiguous().numpy()
        height, width, channels = pixels.shape
        if self.kind == "raw256":
            return EncodedImage(pixels.tobytes(), height, width)
        colours = "RGB" if channels == 3 else "GRAY"
        return EncodedImage(simplejpeg.encode_jpeg(pixels, QUALITY, colours, "420"), height, width)


def smaller(image: Tensor) -> Tensor:
    """A uint8 image [C, H, W] whose short side has at most 256 pixels, by torch's antialiased resize."""
    height, width = image.shape[1:]
    short = min(height, width)
    if short <= SHORT_SIDE:
        return image
    size = [SHORT_SIDE * height // short, SHORT_SIDE * width // short]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


class CachedSet:
    """Images out of a cache: an ImageSet."""

    def __init__(self, place: Path, kind: str, targets: Ints, channels: int) -> None:
        self.kind = kind
        self.targets = targets
        self.channels = channels
        self._index = np.load(place / "index.npy")
        self._pixels = np.memmap(place / "pixels", np.uint8, mode="c")  # "c": torch warns of what it cannot write to

    def __len__(self) -> int:
        return len(self._index)

    def read(self, index: int) -> Tensor:
        data, height, width = self._bytes(index)
        if self.kind == "raw256":
            pixels = data.reshape(height, width, self.channels)
        else:
            pixels = simplejpeg.decode_jpeg(data, "RGB" if self.channels == 3 else "GRAY")
        return torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1)

    def open(self, index: int) -> LazyImage:
        height, width = self._index[index, 2:].tolist()
        return LazyImage(height, width, lambda: self.read(index))

    def encoded(self, index: int) -> EncodedImage:
        data, height, width = self._bytes(index)
        return as_ppm(self.read(index)) if self.kind == "raw256" else EncodedImage(data.tobytes(), height, width)

    def _bytes(self, index: int) -> tuple[np.ndarray, int, int]:
        offset, size, height, width = self._index[index].tolist()
        return self._pixels[offset : offset + size], height, width
