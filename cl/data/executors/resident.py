"""Small images that all fit on the device: one uint8 tensor, no files, no workers; views are cut out batch by batch."""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cl.batch import Batch
from cl.data.executors.base import Executor
from cl.data.executors.device import Pixels, make_batch, to_device
from cl.data.images import ArraySet, ImageSet, Subset
from cl.data.sampler import SampleKey
from cl.data.views.draws import Ints
from cl.data.views.rows import Crops, Rows, ViewPlanner
from cl.data.views.spec import Norm

LARGEST_SIDE = 128  # pixels: a resize is a matrix product, whose cost grows with the third power of the side
LARGEST_SET = 4 << 30  # bytes: STL-10 with its unlabelled images has 2.9e9


def load_into_memory(images: ImageSet) -> ImageSet:
    """`images` as an ArraySet if they are small, of one size, and few enough; else as they are."""
    if isinstance(images, ArraySet) or len(images) == 0:
        return images
    first = images.read(0)
    if max(first.shape[1:]) > LARGEST_SIDE or first.numel() * len(images) > LARGEST_SET:
        return images
    pixels = torch.empty(len(images), *first.shape, dtype=torch.uint8)
    for i in tqdm(range(len(images)), "reading", unit="image", leave=False, disable=not sys.stderr.isatty()):
        image = images.read(i)
        if image.shape != first.shape:
            return images
        pixels[i] = image
    return ArraySet(pixels, images.targets)


@dataclass(frozen=True)
class PlannedBatch:
    """What is known of a batch before its images are looked at."""

    index: Tensor  # [B]
    target: Tensor  # [B]
    place: Ints  # [B] of its images in the resident tensor
    rows: tuple[Rows, ...]


class ResidentExecutor(Executor):
    """The executor of `--loader fast` for an ArraySet, or a part of one."""

    def __init__(self, images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> None:
        self.targets = images.targets
        self.planner = planner
        self.norm = norm
        self.device = device
        self.pixels, self.places = _array_of(images, device)

    def read(self, keys: list[SampleKey]) -> PlannedBatch:
        epoch = keys[0][0]
        index = np.array([i for _, i in keys])
        rows = self.planner.rows(epoch, index, np.tile(np.array(self.pixels.shape[2:]), (len(index), 1)))
        targets = torch.from_numpy(self.targets[index])
        return PlannedBatch(torch.from_numpy(index), targets, self.places[index], rows)

    def to_batch(self, read: PlannedBatch) -> Batch:
        places = to_device(read.place, self.device)
        views = [
            (rows, self._crop_views(rows, places.repeat(len(rows.crops.flip) // len(places)))) for rows in read.rows
        ]
        return make_batch(read.index, read.target, self.device, self.norm, views)

    def _crop_views(self, rows: Rows, places: Tensor) -> Pixels:
        return lambda some: crop_views(self.pixels[places[some]], rows.crops.part(some), rows.size)


def is_resident(images: ImageSet) -> bool:
    return isinstance(images.images if isinstance(images, Subset) else images, ArraySet)


def _array_of(images: ImageSet, device: torch.device) -> tuple[Tensor, Ints]:
    """The tensor that the images lie in, and the place of each."""
    if isinstance(images, Subset):
        pixels, places = _array_of(images.images, device)
        return pixels, places[images.chosen]
    assert isinstance(images, ArraySet)
    return images.on(device), np.arange(len(images))


def crop_views(images: Tensor, crops: Crops, size: int) -> Tensor:
    """Crop, antialiased resize and flip of each row: uint8 [N, C, H, W] -> float32 [N, C, size, size], whole, 0 to 255.

    A resize is linear along either side: one product with a matrix of each row. This one is torch's uint8 resize bit
    for bit: its weights are whole multiples of a power of two, and up to fourfold reduction all sums are below 2^24,
    which float32 adds exactly, in any order.
    """
    n, channels, height, width = images.shape
    across, unit = _weights(crops, 1, size, width, images.device)
    across = torch.where(to_device(crops.flip, images.device)[:, None, None], across.flip(1), across)
    x = images.to(torch.float32).view(n, channels * height, width)
    x = (x @ across.mT).mul_(unit).add_(0.5).floor_().view(n, channels, height, size)
    down, unit = _weights(crops, 0, size, height, images.device)
    return (down[:, None] @ x).mul_(unit[:, None]).add_(0.5).floor_()


def _weights(crops: Crops, axis: int, size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What each pixel of a line of the image gives to each of a line of the view [N, size, side], in units [N, 1, 1].

    The triangle filter of Pillow and torch, as wide as an output pixel where that is more than an input pixel. Torch
    rounds the weights to 16-bit integers, with as many bits as the largest of them leaves.
    """
    # The images have one size, so all rows are resized alike.
    resized = int(crops.resized[0, axis])
    corner = int(crops.corner[0, axis])
    start, length = to_device(crops.box[:, axis::2].T.astype(np.float64), device)[:, :, None, None]  # [N, 1, 1] each
    scale = length / resized
    centre = scale * (torch.arange(resized, dtype=torch.float64, device=device)[:, None] + 0.5)  # [N, resized, 1]
    pixel = torch.arange(side, dtype=torch.float64, device=device) - start + 0.5  # [N, 1, side]
    weights = (1 - (pixel - centre).abs_().div_(scale.clamp(min=1))).clamp_(min=0)
    weights.mul_((pixel > 0) & (pixel < length)).div_(weights.sum(dim=2, keepdim=True))
    largest = weights.amax(dim=(1, 2), keepdim=True)
    bits = (torch.log2((2**15 - 0.5) / largest).ceil_() - 1).clamp_(max=22)
    whole = weights[:, corner : corner + size].mul_(2**bits).add_(0.5).floor_()
    return whole.to(torch.float32), (2**-bits).to(torch.float32)
