"""The pictures of a run. matplotlib is imported when the first one is drawn."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cl.batch import Batch
from cl.data.images import ImageSet
from cl.data.views.spec import Norm
from cl.evaluation.features import features_of

COLUMNS = 10  # of the views
ROWS, NEIGHBOURS, TILE = 6, 7, 96
SEARCHED = 2000  # training images among which neighbours are looked for


def save_views(batch: Batch, images: ImageSet, norm: Norm, path: Path) -> None:
    """A grid of the first images of a training batch: the image on top, its views as the network sees them below."""
    from matplotlib.figure import Figure

    index = batch.index[:COLUMNS].tolist()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in norm)
    views = [view[: len(index)].cpu() * std + mean for same_size in batch.views for view in same_size]
    rows = [("image", [images.read(i).float() / 255 for i in index])]
    rows += [(f"view {number}", list(view)) for number, view in enumerate(views, start=1)]
    figure = Figure(figsize=(1 + len(index), 0.25 + len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(index), squeeze=False)
    for (label, tiles), axes in zip(rows, grid, strict=True):
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=12)
        for tile, axis in zip(tiles, axes, strict=True):
            _show(tile, axis)
    figure.savefig(path, dpi=80)


def _show(tile: Tensor, axis: Any) -> None:
    axis.imshow(tile.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def save_neighbours(images: ImageSet, features: Tensor, classes: Sequence[str], path: Path) -> None:
    """A few of `images` in the first column, and in each row the images whose `features` [N, F] are nearest to it."""
    from matplotlib.figure import Figure

    unit = F.normalize(features.float(), dim=1).cpu()
    queries = torch.linspace(0, len(unit) - 1, min(ROWS, len(unit))).round().long()
    nearest = (unit[queries] @ unit.T).topk(min(NEIGHBOURS + 1, len(unit)), dim=1).indices
    figure = Figure(figsize=(1.4 * nearest.shape[1], 1.55 * len(queries)), layout="constrained")
    grid = figure.subplots(*nearest.shape, squeeze=False)
    for row, axes in enumerate(grid):
        order = [int(queries[row]), *(i for i in nearest[row].tolist() if i != queries[row])]
        for column, axis in enumerate(axes):
            index = order[column]
            label = classes[images.targets[index]] if images.targets[index] >= 0 else ""
            near = f"{float(unit[index] @ unit[order[0]]):.2f}" if column else "image"
            axis.set_title(os.fsencode(f"{near} {label}".strip()).decode(errors="replace"), fontsize=8)
            _show(_square(images.read(index)), axis)
    figure.savefig(path, dpi=80)


def _square(image: Tensor) -> Tensor:
    """The centre of a uint8 image at the size of a tile, in [0, 1]."""
    side = min(image.shape[1:])
    left, top = (image.shape[2] - side) // 2, (image.shape[1] - side) // 2
    square = image[None, :, top : top + side, left : left + side].float()
    return F.interpolate(square, TILE, mode="area")[0] / 255 if side > TILE else square[0] / 255


class SaveNeighbours(Callback):
    """`neighbours.png` after the training: what the backbone finds alike, with or without labels."""

    def __init__(self, images: ImageSet, loader: Iterable[Batch], classes: Sequence[str], path: Path) -> None:
        self.images, self.loader, self.classes, self.path = images, loader, classes, path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        features, _ = features_of(pl_module, self.loader, pl_module.device)
        if trainer.is_global_zero:
            save_neighbours(self.images, features, self.classes, self.path)


class SaveViews(Callback):
    """`views.png` from the first batch that is really trained on."""

    def __init__(self, images: ImageSet, norm: Norm, path: Path) -> None:
        self.images, self.norm, self.path = images, norm, path

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            save_views(batch, self.images, self.norm, self.path)
