"""What a frozen teacher says of the images of a batch."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cl.batch import Batch

KEPT = 1 << 30  # bytes of features that a device keeps; more stay in files


class Targets(Protocol):
    def __call__(self, batch: Batch) -> Tensor:
        """The teacher's features [V, B, D] of the images of all views, full-size views first."""


class FeatureTable:
    """Features of all images, computed before the training: the same for all views of an image."""

    def __init__(self, blocks: Sequence[NDArray[np.float32]]) -> None:
        """`blocks` [N_b, D] hold the images in order, all of the first one's length but the last."""
        self._blocks = blocks
        self._length = len(blocks[0])
        images = sum(map(len, blocks))
        self._mean = torch.from_numpy(sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / images)
        self._rows = self._centred(np.concatenate(blocks)) if sum(block.nbytes for block in blocks) <= KEPT else None

    def __call__(self, batch: Batch) -> Tensor:
        views = sum(map(len, batch.views))
        return self.rows(batch.index).expand(views, -1, -1)

    def rows(self, index: Tensor) -> Tensor:
        """The centred features [B, D] of the images `index` [B], on its device."""
        if self._rows is not None:
            self._rows = self._rows.to(index.device)
            return self._rows[index]
        chosen = index.cpu().numpy()
        rows = np.empty((len(chosen), self._blocks[0].shape[1]), np.float32)
        for number in np.unique(chosen // self._length):
            of_block = chosen // self._length == number
            rows[of_block] = self._blocks[number][chosen[of_block] % self._length]
        return self._centred(rows).to(index.device)

    def _centred(self, rows: NDArray[np.float32]) -> Tensor:
        return (torch.from_numpy(rows).double() - self._mean).float()


class MadeUp:
    """Waves of the image's index, where no teacher is at hand: for dry runs and checks."""

    def __init__(self, dim: int) -> None:
        self._frequencies = 0.7 * torch.arange(1, dim + 1)

    def __call__(self, batch: Batch) -> Tensor:
        rows = torch.sin((batch.index[:, None] + 1) * self._frequencies.to(batch.index.device))
        return rows.expand(sum(map(len, batch.views)), -1, -1)


class TeacherNetwork:
    """A frozen network that sees the views of the student. No module of the method: checkpoints do not hold it."""

    def __init__(self, network: nn.Module, size: tuple[int, int], rescale: tuple[Tensor, Tensor]) -> None:
        """`size` is its height and width of a view, `rescale` [C, 1, 1] the way from the student's normalisation to
        the teacher's: a factor and a shift."""
        self._network = network.eval()
        self._size = size
        self._rescale = rescale

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        return torch.cat([self._features(views) for views in batch.views])

    def _features(self, views: Tensor) -> Tensor:
        """Views [V, B, C, H, W] of one resolution -> features [V, B, D]."""
        self._network.to(views.device, views.dtype)
        factor, shift = (x.to(views.device, views.dtype) for x in self._rescale)
        images = views.flatten(0, 1) * factor + shift
        if images.shape[2:] != self._size:
            images = F.interpolate(images, self._size, mode="bilinear", antialias=True)
        return self._network(images).unflatten(0, views.shape[:2])
