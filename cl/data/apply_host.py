"""The worker's half of the fast path: decode once, then crop, antialiased resize and flip each view, all in uint8.

An image as it is decoded has its channels last in memory, where torch resizes it more than twice as fast.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.batch import Batch
from cl.data.apply_device import finish
from cl.data.image_sets import ImageSet
from cl.data.loader import Executor
from cl.data.rows import Crops, Look, Rows
from cl.data.sampler import Pair
from cl.data.view_spec import Norm


def cropped(image: Tensor, crops: Crops, row: int, size: int) -> Tensor:
    """View `row` of `image` uint8 [C, H, W] -> uint8 [C, size, size], with torchvision's resize bit for bit."""
    (top, left, height, width), (y, x) = crops.box[row].tolist(), crops.corner[row].tolist()
    box = image[None, :, top : top + height, left : left + width]
    resized = F.interpolate(box, crops.resized[row].tolist(), mode="bilinear", antialias=True)[0]
    view = resized[:, y : y + size, x : x + size]
    return view.flip(-1) if crops.flip[row] else view


@dataclass(frozen=True)
class Cropped:
    """What a worker sends."""

    index: Tensor  # [B]
    target: Tensor  # [B]
    views: tuple[Tensor, ...]  # per resolution, uint8 [V B, C, S, S]
    rows: tuple[Rows, ...]

    def pin_memory(self) -> "Cropped":
        """torch's DataLoader calls it."""
        return replace(self, views=tuple(each.pin_memory() for each in self.views))


class Host(Executor):
    """The executor of `--loader fast` for images that are read from files."""

    def __init__(self, images: ImageSet, look: Look, norm: Norm, device: torch.device) -> None:
        self.images, self.look, self.norm, self.device = images, look, norm, device

    def read(self, pairs: list[Pair]) -> Cropped:
        epoch, index = pairs[0][0], np.array([i for _, i in pairs])
        images = [self.images.read(i) for i in index.tolist()]
        rows = self.look.rows(epoch, index, np.array([image.shape[1:] for image in images]))
        views = tuple(_all_cropped(images, each) for each in rows)
        return Cropped(torch.from_numpy(index), torch.from_numpy(self.images.targets[index]), views, rows)

    def finish(self, read: Cropped) -> Batch:
        views = [(rows, pixels.__getitem__) for rows, pixels in zip(read.rows, read.views, strict=True)]
        return finish(read.index, read.target, self.device, self.norm, views)


def _all_cropped(images: list[Tensor], rows: Rows) -> Tensor:
    n = len(rows.crops.flip)
    views = torch.empty(n, len(images[0]), rows.size, rows.size, dtype=torch.uint8)
    for row in range(n):
        views[row] = cropped(images[row % len(images)], rows.crops, row, rows.size)
    return views
