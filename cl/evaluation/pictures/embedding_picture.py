"""`embedding.png`: a map of the backbone's features, on which images that it finds alike lie together."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cl.batch import Batch
from cl.evaluation.features import extract_features

EMBEDDING_IMAGES = 2000  # images at most: t-SNE takes ten seconds for them
MIN_IMAGES = 100  # images for t-SNE, whose perplexity of 30 looks at 90 neighbours
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")  # Okabe and Ito's, no yellow
MARKERS = ("o", "^", "x")  # each in all colours
MAX_CLASSES = 20  # classes in the legend; the others are grey
MAX_NAME = 24  # characters of a class name


def pca(features: Tensor) -> Tensor:
    """[N, F] -> [N, 2], the two directions of the largest variance; zeros where there are fewer."""
    centred = features.double() - features.double().mean(dim=0)
    left, scale, _ = torch.linalg.svd(centred, full_matrices=False)
    return F.pad((left * scale)[:, :2], (0, max(0, 2 - len(scale))))


def tsne(features: Tensor) -> Tensor:
    """[N, F] -> [N, 2] with the neighbourhoods of `features` (van der Maaten and Hinton, 2008), N above 30."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = pca(features)
    start *= 1e-4 / start[:, 0].std().clamp(min=1e-12)
    with threadpool_limits(1):  # more threads add in any order, and where cores are busy they are ten times slower
        found = TSNE(init=start.numpy(), max_iter=500, random_state=0).fit_transform(features.numpy())
    return torch.from_numpy(found)


def save_embedding(features: Tensor, targets: Tensor, classes: Sequence[str], images: str, path: Path) -> None:
    """A point for each of the `images` images, whose `features` [N, F] are normalised as for kNN, by `targets` [N]."""
    from matplotlib.figure import Figure

    unit = F.normalize(features.float().cpu().nan_to_num(), dim=1)
    name, project = ("t-SNE", tsne) if len(unit) >= MIN_IMAGES else ("PCA", pca)
    points = project(unit)
    targets = targets.cpu()
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    axis.set_title(f"{name} of the backbone's features, {len(points)} {images} images", fontsize=11)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.8")
    named = targets[targets >= 0].unique().tolist()[:MAX_CLASSES]
    looks = [(mark, colour) for mark in MARKERS for colour in COLOURS][: len(named)]
    groups = [(targets == target, *look) for target, look in zip(named, looks, strict=True)]
    labels = [os.fsencode(classes[target]).decode(errors="replace")[:MAX_NAME] for target in named]
    others = ~torch.isin(targets, targets.new_tensor(named))
    if others.any():
        groups = [(others, "o", "0.85" if named else COLOURS[0]), *groups]
        labels = ["others", *labels]
    dots = [
        axis.scatter(points[some, 0], points[some, 1], s=16, marker=mark, color=colour) for some, mark, colour in groups
    ]
    if named:
        legend = axis.legend(dots, [""] * len(dots), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        for text, label in zip(legend.get_texts(), labels, strict=True):  # set later: no "_" hides it, no "$" is TeX
            text.set(text=label, parse_math=False)
    figure.savefig(path, dpi=100)


class SaveEmbedding(Callback):
    """`embedding.png` after the training."""

    def __init__(self, loader: Iterable[Batch], classes: Sequence[str], images: str, path: Path) -> None:
        self.loader = loader
        self.classes = classes
        self.images = images
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        features, targets = extract_features(pl_module, self.loader, pl_module.device)
        if trainer.is_global_zero:
            save_embedding(features, targets, self.classes, self.images, self.path)
