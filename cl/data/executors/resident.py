"""Small images that all fit on the device: one uint8 tensor, no files, no workers; views are cropped per batch."""

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
    """Load `images` into an ArraySet if they are few, small and all of one size; otherwise return them unchanged."""
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
    """A batch before its images are read."""

    index: Tensor  # [B]
    target: Tensor  # [B]
    positions: Ints  # [B] of the images in the resident tensor
    rows: tuple[Rows, ...]


class ResidentExecutor(Executor):
    """The executor of `--loader fast` for an ArraySet or a Subset of one."""

    def __init__(self, images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> None:
        self.targets = images.targets
        self.planner = planner
        self.norm = norm
        self.device = device
        self.pixels, self.positions = _resident_tensor(images, device)

    def read(self, keys: list[SampleKey]) -> PlannedBatch:
        epoch = keys[0][0]
        index = np.array([i for _, i in keys])
        rows = self.planner.rows(epoch, index, np.tile(np.array(self.pixels.shape[2:]), (len(index), 1)))
        return PlannedBatch(
            index=torch.from_numpy(index),
            target=torch.from_numpy(self.targets[index]),
            positions=self.positions[index],
            rows=rows,
        )

    def to_batch(self, read: PlannedBatch) -> Batch:
        positions = to_device(read.positions, self.device)
        views = [(rows, self._cropped(rows, positions)) for rows in read.rows]
        return make_batch(read.index, read.target, self.device, self.norm, views)

    def _cropped(self, rows: Rows, positions: Tensor) -> Pixels:
        positions = positions.repeat(len(rows.crops.flip) // len(positions))  # per view
        return lambda chunk: crop_views(self.pixels[positions[chunk]], rows.crops.select(chunk), rows.size)


def is_resident(images: ImageSet) -> bool:
    return isinstance(images.images if isinstance(images, Subset) else images, ArraySet)


def _resident_tensor(images: ImageSet, device: torch.device) -> tuple[Tensor, Ints]:
    """The tensor that holds the images, and each image's position in it."""
    if isinstance(images, Subset):
        pixels, positions = _resident_tensor(images.images, device)
        return pixels, positions[images.chosen]
    assert isinstance(images, ArraySet)
    return images.on(device), np.arange(len(images))


def crop_views(images: Tensor, crops: Crops, size: int) -> Tensor:
    """Crop, antialiased resize and flip each row: uint8 [N, C, H, W] -> float32 [N, C, size, size], integers 0 to 255.

    A resize is linear along each side: one matrix product per side, with a matrix per row. It equals torch's uint8
    resize bit for bit: the weights are integer multiples of a power of two, and for reductions up to fourfold all sums
    are below 2^24, which float32 adds exactly in any order.
    """
    n, channels, height, width = images.shape
    across, unit = _weights(crops, axis=1, size=size, side=width, device=images.device)
    across = torch.where(to_device(crops.flip, images.device)[:, None, None], across.flip(1), across)
    x = images.to(torch.float32).view(n, channels * height, width)
    x = (x @ across.mT).mul_(unit).add_(0.5).floor_().view(n, channels, height, size)
    down, unit = _weights(crops, axis=0, size=size, side=height, device=images.device)
    return (down[:, None] @ x).mul_(unit[:, None]).add_(0.5).floor_()


def _weights(crops: Crops, axis: int, size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight of each input pixel in each output pixel along one axis [N, size, side], in units [N, 1, 1].

    Pillow's and torch's triangle filter, as wide as an output pixel where that is larger than an input pixel. Torch
    rounds the weights to 16-bit integers, with as many fractional bits as the largest weight leaves.
    """
    # All images have the same size, so all rows have the same resized size and corner.
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
    integers = weights[:, corner : corner + size].mul_(2**bits).add_(0.5).floor_()
    return integers.to(torch.float32), (2**-bits).to(torch.float32)
