"""`neighbours.png`: a few training images and their nearest neighbours in feature space."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cl.batch import Batch
from cl.data.decoding.decode import in_unit_range
from cl.data.images import ImageSet
from cl.evaluation.features import extract_features
from cl.evaluation.pictures.drawing import draw, label, with_own_settings
from cl.evaluation.pictures.tile import show_tile, white_of
from cl.nn.finite import measurable

ROWS = 6
NEIGHBOURS = 7  # columns next to the image itself
TILE = 96  # pixels
NEIGHBOUR_IMAGES = 2000  # training images among which neighbours are searched


@with_own_settings
def save_neighbours(images: ImageSet, features: Tensor, classes: Sequence[str], path: Path) -> None:
    """Draw a few of `images` in the first column, each followed by its nearest neighbours by `features` [N, F]."""
    from matplotlib.figure import Figure

    if not measurable(features).all():
        raise ValueError("features are not finite")
    unit = F.normalize(features.float(), dim=1).cpu()
    queries = torch.linspace(0, len(unit) - 1, min(ROWS, len(unit))).round().long()
    nearest = (unit[queries] @ unit.T).topk(min(NEIGHBOURS + 1, len(unit)), dim=1).indices
    figure = Figure(figsize=(1.4 * nearest.shape[1], 1.55 * len(queries)), layout="constrained")
    grid = figure.subplots(*nearest.shape, squeeze=False)
    for row, axes in enumerate(grid):
        order = [int(queries[row]), *(i for i in nearest[row].tolist() if i != queries[row])]
        for column, axis in enumerate(axes):
            index = order[column]
            name = label(classes[images.targets[index]]) if images.targets[index] >= 0 else ""
            similarity = f"{float(unit[index] @ unit[order[0]]):.2f}" if column else "image"
            axis.set_title(f"{similarity} {name}".strip(), fontsize=8, parse_math=False)
            tile = central_square(images.read(index))
            show_tile(tile, axis, white_of(tile))
    figure.savefig(path, dpi=80)


def central_square(image: Tensor) -> Tensor:
    """The central square of an image, at most TILE pixels wide, in [0, 1]."""
    side = min(image.shape[1:])
    left = (image.shape[2] - side) // 2
    top = (image.shape[1] - side) // 2
    square = in_unit_range(image[None, :, top : top + side, left : left + side])
    return F.interpolate(square, TILE, mode="area")[0] if side > TILE else square[0]


class SaveNeighbours(Callback):
    """Save `neighbours.png` at the end of training; it needs no labels."""

    def __init__(self, images: ImageSet, loader: Iterable[Batch], classes: Sequence[str], path: Path) -> None:
        self.images = images
        self.loader = loader
        self.classes = classes
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        draw(self.path, lambda: self._draw(trainer, pl_module))

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        features, _ = extract_features(module, self.loader, module.device)
        if trainer.is_global_zero:
            save_neighbours(self.images, features, self.classes, self.path)
