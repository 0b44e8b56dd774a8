"""Small images that all fit on the device: one uint8 tensor, no files, no workers; views are cropped per batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cl.batch import Batch
from cl.config.views import Size, sides
from cl.data.executors.base import Executor, epoch_and_index
from cl.data.executors.device import Pixels, make_batch, to_device
from cl.data.executors.resident_images import array_on_device
from cl.data.images import ImageSet
from cl.data.sampler import SampleKey
from cl.data.views.draws import Ints
from cl.data.views.filters import FILTERS
from cl.data.views.rows import Crops, Rows, ViewPlanner
from cl.data.views.spec import Norm


@dataclass(frozen=True)
class PlannedBatch:
    """A batch before its images are read."""

    index: Tensor  # [B]
    target: Tensor  # [B]
    positions: Ints  # [B] of the images in the resident tensor
    rows: tuple[Rows, ...]


class ResidentExecutor(Executor):
    """The executor of `--loader fast` for an ArraySet or a Subset of one, without kernels."""

    reads_files = False

    def __init__(self, images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> None:
        self.targets = images.targets
        self.planner = planner
        self.norm = norm
        self.device = device
        self.pixels, self.positions = array_on_device(images, device)

    def read(self, keys: list[SampleKey]) -> PlannedBatch:
        epoch, index = epoch_and_index(keys)
        rows = self.planner.rows(epoch, index, np.tile(np.array(self.pixels.shape[2:]), (len(index), 1)))
        return PlannedBatch(
            index=torch.from_numpy(index),
            target=torch.from_numpy(self.targets[index].astype(np.int64)),
            positions=self.positions[index],
            rows=rows,
        )

    def to_batch(self, read: PlannedBatch) -> Batch:
        positions = to_device(read.positions, self.device)
        views = [(rows, self._cropped(rows, positions)) for rows in read.rows]
        return make_batch(read.index, read.target, self.device, self.norm, views)

    def _cropped(self, rows: Rows, positions: Tensor) -> Pixels:
        positions = positions.repeat(len(rows.crops.flip) // len(positions))  # per view

        def cropped(chunk: slice) -> Tensor:
            return crop_views(self.pixels[positions[chunk]], rows.crops.select(chunk), rows.size, rows.interpolation)

        return cropped


def crop_views(images: Tensor, crops: Crops, size: Size, interpolation: str = "bilinear") -> Tensor:
    """Crop, antialiased resize and flip each row: uint8 [N, C, H, W] -> float32 [N, C, *size], integers 0 to 255.

    A resize is linear along each side: one matrix product per side, with a matrix per row. It equals torch's uint8
    resize bit for bit: the weights are integer multiples of a power of two, and for reductions up to fourfold all sums
    are below 2^24, which float32 adds exactly in any order; for larger ones, and for bicubic resizes, float64.
    Images in float32 are resized in float32, and are not rounded.
    """
    n, channels, height, width = images.shape
    # All images have the same size, so all rows have the same window of the resized box.
    ends = crops.corner[0] + sides(size)
    down_window, across_window = map(slice, crops.corner[0].tolist(), ends.tolist())
    if images.is_floating_point():
        across = _weights(crops, interpolation, axis=1, side=width, device=images.device)
        across = _flipped(across[:, across_window], crops)
        down = _weights(crops, interpolation, axis=0, side=height, device=images.device)[:, down_window]
        x = (images.view(n, channels * height, width) @ across.float().mT).view(n, channels, height, -1)
        return down.float()[:, None] @ x
    small_sums = interpolation == "bilinear" and (crops.box[:, 2:] <= 4 * crops.resized).all()
    dtype = torch.float32 if small_sums else torch.float64
    across, unit = _as_integers(_weights(crops, interpolation, axis=1, side=width, device=images.device), across_window)
    across = _flipped(across, crops)
    x = images.to(dtype).view(n, channels * height, width)
    x = _rounded((x @ across.to(dtype).mT).mul_(unit)).view(n, channels, height, -1)
    down, unit = _as_integers(_weights(crops, interpolation, axis=0, side=height, device=images.device), down_window)
    return _rounded((down.to(dtype)[:, None] @ x).mul_(unit[:, None])).to(torch.float32)


def _rounded(x: Tensor) -> Tensor:
    """To integers from 0 to 255, in place: the negative weights of a bicubic resize overshoot."""
    return x.add_(0.5).floor_().clamp_(0, 255)


def _flipped(across: Tensor, crops: Crops) -> Tensor:
    return torch.where(to_device(crops.flip, across.device)[:, None, None], across.flip(1), across)


def _weights(crops: Crops, interpolation: str, axis: int, side: int, device: torch.device) -> Tensor:
    """Weight of each input pixel in each pixel of the resized box along one axis, float64 [N, resized, side].

    The filter is as wide as an output pixel where that is larger than an input pixel, as Pillow's and torch's.
    """
    resized = int(crops.resized[0, axis])  # of all rows, as all images have the same size
    start, length = to_device(crops.box[:, axis::2].T.astype(np.float64), device)[:, :, None, None]  # [N, 1, 1] each
    scale = length / resized
    centre = scale * (torch.arange(resized, dtype=torch.float64, device=device)[:, None] + 0.5)  # [N, resized, 1]
    pixel = torch.arange(side, dtype=torch.float64, device=device) - start + 0.5  # [N, 1, side]
    weights = FILTERS[interpolation].weights((pixel - centre).div_(scale.clamp(min=1)))
    return weights.mul_((pixel > 0) & (pixel < length)).div_(weights.sum(dim=2, keepdim=True))


def _as_integers(weights: Tensor, window: slice) -> tuple[Tensor, Tensor]:
    """The weights of a window in units: float32 [N, size, side] and [N, 1, 1].

    Torch rounds them to 16-bit integers, with as many fractional bits as the largest of all weights leaves.
    """
    largest = weights.amax(dim=(1, 2), keepdim=True)
    bits = (torch.log2((2**15 - 0.5) / largest).ceil_() - 1).clamp_(max=22)
    exact = weights[:, window].mul_(2**bits)
    integers = (exact + torch.sign(exact) / 2).trunc_()
    return integers.to(torch.float32), (2**-bits).to(torch.float32)
