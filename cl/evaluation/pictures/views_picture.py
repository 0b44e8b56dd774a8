"""`views.png`: images and their views as the network sees them."""

from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cl.batch import Batch
from cl.data.decoding.decode import in_unit_range
from cl.data.images import ImageSet
from cl.data.views.spec import Norm
from cl.evaluation.pictures.drawing import draw, with_own_settings
from cl.evaluation.pictures.tile import show_tile, white_of

COLUMNS = 10


@with_own_settings
def save_views(batch: Batch, images: ImageSet, norm: Norm, path: Path) -> None:
    """Draw the first images of a training batch, each above its views as the network sees them."""
    from matplotlib.figure import Figure

    index = batch.index[:COLUMNS].tolist()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in norm)
    views = [view[: len(index)].cpu().float() * std + mean for same_size in batch.views for view in same_size]
    rows = [("image", [in_unit_range(images.read(i)) for i in index])]
    rows += [(f"view {number}", list(view)) for number, view in enumerate(views, start=1)]
    whites = [white_of(image) for image in rows[0][1]]
    figure = Figure(figsize=(1 + len(index), 0.25 + len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(index), squeeze=False)
    for (label, tiles), axes in zip(rows, grid, strict=True):
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=12)
        for tile, axis, white in zip(tiles, axes, whites, strict=True):
            show_tile(tile, axis, white)
    figure.savefig(path, dpi=80)


class SaveViews(Callback):
    """Save `views.png` from the first batch of the training."""

    def __init__(self, images: ImageSet, norm: Norm, path: Path) -> None:
        self.images = images
        self.norm = norm
        self.path = path

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            draw(self.path, lambda: save_views(batch, self.images, self.norm, self.path))
