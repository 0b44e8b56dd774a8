"""`--cache`: smaller copies of image files, written once and shared by all processes and runs.

A cache is a folder with `pixels`, `index.npy` and `about.json`. It is renamed into place once complete, so an
interrupted build is never mistaken for a cache. It is rebuilt when a source file changes.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.config.data import COLOURS
from cl.data.decoding.decode import EncodedImage, LazyImage, as_ppm
from cl.data.images import EncodedSet
from cl.data.sources.places import absolute
from cl.data.views.draws import Ints
from cl.data.worker_processes import each
from cl.errors import UserError
from cl.machine.home import cache_folder
from cl.machine.kept_files import reading, sync_folder

SHORT_SIDE = 256  # pixels; smaller images are not resized
QUALITY = 92  # JPEG quality of jpeg256
WHITE = 2**16 - 1  # in images of more than three channels
VERSION = 2  # of the pixels that are stored


def cached(images: EncodedSet, kind: str, folder: str | None, workers: int) -> "CachedSet":
    """Open the cache of `images`; build it first if it is missing or out of date."""
    parent = Path(folder) if folder is not None else cache_folder()
    if parent is None:
        raise UserError(f"--cache_dir: not given, and there is no home folder; expected a folder for the {kind} cache")
    key = hashlib.sha256(os.fsencode(absolute(images.root)) + f" {kind} {images.channels}".encode()).hexdigest()[:16]
    path = parent / f"{kind}-{key}"
    metadata = {"version": VERSION, "files": len(images), "state": images.fingerprint()}
    try:
        if _is_current(path, metadata):  # also in a folder where no lock can be written
            return CachedSet(path, kind, images)
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / f".{path.name}.lock"):
            if not _is_current(path, metadata):
                _write(images, kind, path, metadata, workers)
        return CachedSet(path, kind, images)
    except OSError as error:
        raise UserError(
            f"--cache_dir: got {parent}, expected a folder where the {kind} cache can be written ({error.strerror})"
        ) from None


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Let in one process at a time, of any run; the system releases the lock of a killed process."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_current(path: Path, metadata: dict[str, Any]) -> bool:
    try:
        with reading(path):
            index = np.load(path / "index.npy")
            complete = int(index[-1, :2].sum()) == (path / "pixels").stat().st_size
            return complete and json.loads((path / "about.json").read_text()) == metadata
    except OSError:
        return False


def _write(images: EncodedSet, kind: str, path: Path, metadata: dict[str, Any], workers: int) -> None:
    for leftover in path.parent.glob(f"{path.name}.part*"):  # from a killed process: this one holds the lock
        shutil.rmtree(leftover)
    partial = path.with_name(f"{path.name}.part")
    partial.mkdir()
    try:
        _write_images(images, kind, partial, workers)
        (partial / "about.json").write_text(json.dumps(metadata))
        sync_folder(partial)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_images(images: EncodedSet, kind: str, folder: Path, workers: int) -> None:
    """Write `pixels`, one image after another, and `index.npy` [N, 4]: offset, bytes, height, width."""
    index = []
    offset = 0
    with (folder / "pixels").open("wb") as file:
        for image in each(partial(_shrunk, images, kind), len(images), workers, f"caching {images.root}"):
            file.write(image.data)
            index.append((offset, len(image.data), image.height, image.width))
            offset += len(image.data)
    np.save(folder / "index.npy", np.array(index, np.int64))


def _shrunk(images: EncodedSet, kind: str, index: int) -> EncodedImage:
    """An image as the cache stores it: in 8 bits, or in 16 if it has more than three channels."""
    pixels = shrink(images.read(index)).permute(1, 2, 0).contiguous().numpy()
    height, width, channels = pixels.shape
    if channels > COLOURS:
        pixels = np.rint(pixels * np.float32(WHITE)).astype(np.uint16)
    if kind == "raw256":
        return EncodedImage(pixels.tobytes(), height, width)
    colours = "RGB" if channels == 3 else "GRAY"
    return EncodedImage(simplejpeg.encode_jpeg(pixels, QUALITY, colours, "420"), height, width)


def shrink(image: Tensor) -> Tensor:
    """Shrink an image [C, H, W] to a short side of at most 256 pixels, with torch's antialiased resize."""
    height, width = image.shape[1:]
    short = min(height, width)
    if short <= SHORT_SIDE:
        return image
    size = [SHORT_SIDE * height // short, SHORT_SIDE * width // short]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


class CachedSet:
    """An ImageSet that reads from a cache."""

    def __init__(self, path: Path, kind: str, images: EncodedSet) -> None:
        self.images = images  # whose names and targets it has
        self.kind = kind
        self.targets = images.targets
        self.channels = images.channels
        self._about = (path / "about.json").read_text()
        self._index = np.load(path / "index.npy")
        self._pixels = np.memmap(path / "pixels", np.uint8, mode="c")  # "c": torch warns about read-only arrays

    def __len__(self) -> int:
        return len(self._index)

    @property
    def sizes(self) -> Ints:
        """Height and width [N, 2] of all images."""
        sizes: Ints = self._index[:, 2:]
        return sizes

    def read(self, index: int) -> Tensor:
        data, height, width = self._bytes(index)
        if self.channels > COLOURS:
            pixels = data.view(np.uint16).reshape(height, width, self.channels) / np.float32(WHITE)
        elif self.kind == "raw256":
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

    def name(self, index: int) -> str:
        return self.images.name(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.kind} {self._about}".encode()).hexdigest()

    def _bytes(self, index: int) -> tuple[np.ndarray, int, int]:
        offset, size, height, width = self._index[index].tolist()
        return self._pixels[offset : offset + size], height, width
