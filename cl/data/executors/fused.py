"""The executors of GPUs with Triton: the same views as from the others, in four launches a resolution and one copy."""

from functools import cache

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from cl.batch import Batch
from cl.data.executors.base import Executor, epoch_and_index
from cl.data.executors.dali import DaliExecutor, EncodedBatch
from cl.data.executors.packing import Packed, pack
from cl.data.executors.resident_images import DeviceImages, on_device
from cl.data.executors.workers import WorkerExecutor, crop_images
from cl.data.images import ImageSet
from cl.data.kernels.augment import augment
from cl.data.kernels.cut import cut
from cl.data.kernels.numbers import ColourNumbers, CropNumbers, Pairs, colour_numbers, crop_numbers, pairs_of
from cl.data.kernels.weights import Tables, tables
from cl.data.sampler import SampleKey
from cl.data.views.rows import ViewPlanner
from cl.data.views.spec import Norm


class FusedResident(Executor):
    """Views of images that lie on the device."""

    reads_files = False

    def __init__(self, images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> None:
        self.targets = images.targets
        self.planner = planner
        self.norm = norm
        self.device = device
        self.images: DeviceImages = on_device(images, device)
        self.pairs = pairs_of(planner, self.images.sizes)

    def read(self, keys: list[SampleKey]) -> Packed:
        epoch, index = epoch_and_index(keys)
        sizes = self.images.sizes[index]
        begins = self.images.begins[index]
        resolutions = self.planner.rows(epoch, index, sizes)
        crops = [array for rows in resolutions for array in crop_numbers(rows.crops, begins, sizes, self.pairs)]
        colours = [array for rows in resolutions for array in colour_numbers(rows)]
        return pack([index, self.targets[index].astype(np.int64), *crops, *colours])

    def to_batch(self, read: Packed) -> Batch:
        index, target, *numbers = read.to(self.device).tensors()
        resolutions = self.planner.resolutions
        crops = list(map(CropNumbers._make, _parts(numbers[: 2 * len(resolutions)], 2)))
        resize = _tables_on(self.device, self.pairs, self.planner.interpolation)
        pixels = [
            cut(self.images.pixels, crop, resize, one.size, channels=len(self.norm[0]))
            for one, crop in zip(resolutions, crops, strict=True)
        ]
        return _batch(index, target, _augmented(self, pixels, numbers[2 * len(resolutions) :]))


class FusedWorkers(WorkerExecutor):
    """Views that workers have cropped."""

    def read(self, keys: list[SampleKey]) -> Packed:
        index, images, resolutions = self.open(keys)
        pixels = [(torch.uint8, shape) for shape in self.shapes(len(index))]
        numbers = [array for rows in resolutions for array in colour_numbers(rows)]
        packed = pack([index, self.images.targets[index].astype(np.int64), *numbers], after=pixels)
        crop_images(images, resolutions, packed.tensors()[: len(pixels)])
        return packed

    def to_batch(self, read: Packed) -> Batch:
        tensors = read.to(self.device).tensors()
        count = len(self.planner.resolutions)
        index, target, *numbers = tensors[count:]
        index, target = torch.stack([index, target])  # evaluation keeps them, and would keep the pixels with them
        return _batch(index, target, _augmented(self, tensors[:count], numbers))


class FusedDali(DaliExecutor):
    """Views that DALI has cropped."""

    def to_batch(self, read: tuple[EncodedBatch, list[Tensor]]) -> Batch:
        batch, pixels = read
        numbers = [array for rows in batch.rows for array in colour_numbers(rows)]
        packed = pack([batch.index.numpy(), batch.target.numpy(), *numbers])
        if self.device.type == "cuda":
            packed = packed.pin_memory()
        index, target, *on_gpu = packed.to(self.device).tensors()
        pixels = [cropped.to(self.device, non_blocking=True) for cropped in pixels]
        return _batch(index, target, _augmented(self, pixels, on_gpu))


def _augmented(
    executor: FusedResident | WorkerExecutor | DaliExecutor, pixels: list[Tensor], numbers: list[Tensor]
) -> list[Tensor]:
    """The network's input of each resolution from cropped `pixels` and the arrays of `colour_numbers`."""
    norm = _norm_on(executor.device, executor.norm)
    parts = zip(pixels, executor.planner.resolutions, _parts(numbers, 3), strict=True)
    return [
        augment(cropped, ColourNumbers._make(colours), norm, one.kernel, executor.dtype)
        for cropped, one, colours in parts
    ]


def _parts(tensors: list[Tensor], size: int) -> list[list[Tensor]]:
    return [tensors[begin : begin + size] for begin in range(0, len(tensors), size)]


def _batch(index: Tensor, target: Tensor, views: list[Tensor]) -> Batch:
    return Batch(index, tuple(rearrange(x, "(v b) c h w -> v b c h w", b=len(index)) for x in views), target)


# Copied once and kept: a copy from pageable memory waits for all that the device has to do, and other streams read it.


@cache
def _tables_on(device: torch.device, pairs: Pairs, interpolation: str) -> Tables:
    return tables(pairs, interpolation, device)


@cache
def _norm_on(device: torch.device, norm: Norm) -> Tensor:
    """Mean and std [2, C]."""
    return torch.tensor(norm, device=device)
