"""`embedding.png`: the backbone's features projected to two dimensions; similar images lie close together.

`embedding.json` has its points, for the page of `python -m cl.report --html`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cl.batch import Batch
from cl.data.images import ImageSet
from cl.evaluation.features import extract_features
from cl.evaluation.pictures.drawing import draw, label, with_own_settings
from cl.evaluation.pictures.embedding_points import Points, save_points
from cl.nn.finite import measurable

EMBEDDING_IMAGES = 2000  # at most: t-SNE takes ten seconds for them
MIN_IMAGES = 100  # for t-SNE, whose perplexity of 30 uses 90 neighbours
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")  # Okabe and Ito's, no yellow
MARKERS = ("o", "^", "x")  # each in all colours
MAX_CLASSES = 20  # in the legend; the others are grey


def pca(features: Tensor) -> Tensor:
    """[N, F] -> [N, 2], the first two principal components; zeros where there are fewer."""
    centred = features.double() - features.double().mean(dim=0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return F.pad((u * s)[:, :2], (0, max(0, 2 - len(s))))


def tsne(features: Tensor) -> Tensor:
    """[N, F] -> [N, 2], t-SNE (van der Maaten and Hinton, 2008) started from the PCA; N above 30."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = pca(features)
    start *= 1e-4 / start[:, 0].std().clamp(min=1e-12)
    with threadpool_limits(1):  # more threads sum in an undefined order, and are ten times slower on busy cores
        points = TSNE(init=start.numpy(), max_iter=500, random_state=0).fit_transform(features.numpy())
    return torch.from_numpy(points)


class _Group(NamedTuple):
    """Points that share an entry of the legend."""

    mask: Tensor  # [N] bool
    label: str
    marker: str
    colour: str


def _groups(targets: Tensor, classes: Sequence[str]) -> list[_Group]:
    """The points of each class in the legend, after all other points, which are drawn below them."""
    named = targets[targets >= 0].unique().tolist()[:MAX_CLASSES]
    styles = [(marker, colour) for marker in MARKERS for colour in COLOURS]
    groups = [
        _Group(targets == target, label(classes[target]), marker, colour)
        for target, (marker, colour) in zip(named, styles, strict=False)
    ]
    others = ~torch.isin(targets, targets.new_tensor(named))
    if not others.any():
        return groups
    return [_Group(others, "others", "o", "0.85" if named else COLOURS[0]), *groups]


@with_own_settings
def save_embedding(features: Tensor, targets: Tensor, classes: Sequence[str], split: str, path: Path) -> Points:
    """Draw a point per image of `split`, coloured by `targets` [N]; `features` [N, F] are normalised as for kNN."""
    from matplotlib.figure import Figure

    finite = measurable(features)
    left_out = f", {int((~finite).sum())} not finite" if not finite.all() else ""
    targets = targets[finite]
    unit = F.normalize(features[finite].float().cpu(), dim=1)
    name, project = ("t-SNE", tsne) if len(unit) >= MIN_IMAGES else ("PCA", pca)
    points = project(unit)
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    axis.set_title(f"{name} of the backbone's features, {len(points)} {split} images{left_out}", fontsize=11)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.8")
    groups = _groups(targets.cpu(), classes)
    dots = []
    for group in groups:
        x, y = points[group.mask].T
        dots.append(axis.scatter(x, y, s=16, marker=group.marker, color=group.colour))
    if (targets >= 0).any():
        legend = axis.legend(dots, [""] * len(dots), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        # The labels are set here: the legend would hide one that starts with "_" and read "$" as TeX.
        for text, group in zip(legend.get_texts(), groups, strict=True):
            text.set(text=group.label, parse_math=False)
    figure.savefig(path, dpi=100)
    return Points(finite.cpu(), unit, points, targets.cpu(), f"{name}, {split} images")


class SaveEmbedding(Callback):
    """Save `embedding.png` and its points at the end of training."""

    def __init__(
        self, images: ImageSet, loader: Iterable[Batch], classes: Sequence[str], split: str, path: Path
    ) -> None:
        self.images = images
        self.loader = loader
        self.classes = classes
        self.split = split
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        draw(self.path, lambda: self._draw(trainer, pl_module))

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        features, targets = extract_features(module, self.loader, module.device)
        if trainer.is_global_zero:
            points = save_embedding(features, targets, self.classes, self.split, self.path)
            file = self.path.with_suffix(".json")
            draw(file, lambda: save_points(points, self.images, self.classes, file))
