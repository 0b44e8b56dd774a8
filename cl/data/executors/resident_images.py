"""Images that lie on the training device, so that nothing is read or decoded after the start.

Small images of one size are one array, on any device. Others, of any size, need the kernels that cut views out of them.
"""

import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cl.data.cache import CachedSet
from cl.data.decoding.decode import BrokenFile, EncodedImage, LazyImage
from cl.data.images import ArraySet, ImageSet, Subset
from cl.data.views.draws import Ints
from cl.data.worker_processes import each
from cl.distributed import all_or_none, on_any_rank
from cl.errors import UserError, format_bytes

SMALL_SIDE = 128  # pixels: a resize of torch is a matrix product, whose cost grows with the third power of the side
LARGEST_ARRAY = 4 << 30  # bytes: STL-10 with its unlabelled images has 2.9e9
LONGEST_SIDE = 4096  # pixels: the tables of a resize from every length up to it have 35 MB
MESSAGE = 8 << 20  # bytes that a worker sends at a time
SAMPLE = 64  # images whose size is looked at before all are


def load_into_memory(images: ImageSet) -> ImageSet:
    """Load `images` into an ArraySet if they are few, small and all of one size; otherwise return them unchanged."""
    if isinstance(images, ArraySet) or len(images) == 0:
        return images
    first = images.read(0)
    if max(first.shape[1:]) > SMALL_SIDE or first.nbytes * len(images) > LARGEST_ARRAY:
        return images
    pixels = torch.empty(len(images), *first.shape, dtype=first.dtype)
    for i in tqdm(range(len(images)), "reading", unit="image", leave=False, disable=not sys.stderr.isatty()):
        image = images.read(i)
        if image.shape != first.shape:
            return images
        pixels[i] = image
    return ArraySet(pixels, images.targets)


def is_resident(images: ImageSet) -> bool:
    return is_resident(images.images) if isinstance(images, Subset) else isinstance(images, ArraySet | ResidentSet)


@dataclass(frozen=True)
class DeviceImages:
    """Where images lie."""

    pixels: Tensor  # uint8 on the device, [C, H, W] of one image after another
    begins: Ints  # [N] in `pixels`
    sizes: Ints  # [N, 2] height, width


class ResidentSet:
    """An ImageSet whose pixels also lie on the device."""

    def __init__(self, images: ImageSet, on_device: DeviceImages) -> None:
        self.images = images
        self.targets = images.targets
        self.on_device = on_device

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images.read(index)

    def open(self, index: int) -> LazyImage:
        return self.images.open(index)

    def encoded(self, index: int) -> EncodedImage:
        return self.images.encoded(index)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def fingerprint(self) -> str:
        return self.images.fingerprint()


def on_device(images: ImageSet, device: torch.device) -> DeviceImages:
    """Where the images of a resident set lie."""
    if isinstance(images, Subset):
        whole = on_device(images.images, device)
        return DeviceImages(whole.pixels, whole.begins[images.chosen], whole.sizes[images.chosen])
    if isinstance(images, ResidentSet):
        return images.on_device
    pixels, positions = array_on_device(images, device)
    return DeviceImages(
        pixels=pixels.flatten(),
        begins=positions * pixels[0].numel(),
        sizes=np.tile(np.array(pixels.shape[2:]), (len(positions), 1)),
    )


def array_on_device(images: ImageSet, device: torch.device) -> tuple[Tensor, Ints]:
    """The tensor [N, C, H, W] that holds the images of an ArraySet or a Subset of one, and each image's position."""
    if isinstance(images, Subset):
        pixels, positions = array_on_device(images.images, device)
        return pixels, positions[images.chosen]
    assert isinstance(images, ArraySet)
    return images.on(device), np.arange(len(images))


class DoesNotFit(Exception):
    """Why images cannot lie on a device."""


def onto_device(images: ImageSet, device: torch.device, room: int, workers: int) -> ResidentSet:
    """Read all `images` once and keep them on the device, where they may take `room` bytes: on all ranks or on none."""
    sizes, obstacle = all_or_none(lambda: _fitting_sizes(images, room, workers))
    if on_any_rank(bool(obstacle)):
        raise DoesNotFit(obstacle or "the images of another process do not fit on its GPU")
    return ResidentSet(images, all_or_none(lambda: _filled(images, sizes, device, workers)))


def _fitting_sizes(images: ImageSet, room: int, workers: int) -> tuple[Ints, str]:
    """Height and width [N, 2] of all images, and why they do not fit, if they do not."""
    few = Subset(images, np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(np.int64)))
    sizes = _sizes(few, workers=0)
    estimate = _bytes(images, sizes).mean() * len(images)
    if estimate > 1.5 * room:
        return sizes, f"{len(images)} images have about {format_bytes(estimate)}, with room for {format_bytes(room)}"
    sizes = _sizes(images, workers)
    needed = _bytes(images, sizes).sum()
    if needed > room:
        return sizes, f"{len(images)} images have {format_bytes(needed)}, with room for {format_bytes(room)}"
    longest = sizes.max()
    return sizes, f"an image has a side of {longest} pixels, more than {LONGEST_SIDE}" * bool(longest > LONGEST_SIDE)


def _filled(images: ImageSet, sizes: Ints, device: torch.device, workers: int) -> DeviceImages:
    lengths = _bytes(images, sizes)
    begins = np.cumsum(lengths) - lengths
    try:
        pixels = torch.empty(int(lengths.sum()), dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"--resident: {format_bytes(lengths.sum())} of images do not fit beside what else is on the GPU, expected "
            "off"
        ) from None
    at_once = max(1, min(16, MESSAGE // int(lengths.max())))
    read = each(partial(_pixels, images), len(images), workers, f"{len(images)} images onto the GPU", at_once)
    for number, image in enumerate(read):
        if image.shape[1:] != tuple(sizes[number]):
            raise BrokenFile(f"image {number} of the data set changed its size while it was read")
        pixels[begins[number] : begins[number] + lengths[number]] = image.flatten()
    return DeviceImages(pixels, begins, sizes)


def device_bytes(images: ImageSet) -> int:
    """What the images of a resident set, or of the one that it is a part of, take."""
    if isinstance(images, Subset):
        return device_bytes(images.images)
    if isinstance(images, ResidentSet):
        return images.on_device.pixels.nbytes
    assert isinstance(images, ArraySet)
    return images.images.nbytes


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def _bytes(images: ImageSet, sizes: Ints) -> Ints:
    """Of images of heights and widths `sizes` [N, 2]."""
    return images.read(0).shape[0] * sizes.prod(axis=1)


def _sizes(images: ImageSet, workers: int) -> Ints:
    """Height and width [N, 2] of all images."""
    whole = images.images if isinstance(images, Subset) else images
    if isinstance(whole, CachedSet):
        return whole.sizes[images.chosen] if isinstance(images, Subset) else whole.sizes
    return np.array(list(each(partial(_size, images), len(images), workers, "measuring")))


def _size(images: ImageSet, index: int) -> tuple[int, int]:
    image = images.open(index)
    return image.height, image.width


def _pixels(images: ImageSet, index: int) -> Tensor:
    return images.read(index).contiguous()
