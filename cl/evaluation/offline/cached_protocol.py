"""`--protocol cached`: extract the features of the training images and their mirrors once, then train heads on them."""

import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cl.backbones import Backbone
from cl.config.programs import Linear
from cl.data.datamodule import ImageData
from cl.data.images import ImageSet
from cl.distributed import rank
from cl.evaluation.features import Labelled, extract_features
from cl.evaluation.offline.feature_grid import HeadTraining, train_best_head
from cl.evaluation.offline.feature_scores import feature_scores, head_accuracy, labelled_only
from cl.evaluation.offline.label_split import evaluation_sets
from cl.evaluation.offline.linear_evaluation import LinearEvaluation, chosen_point
from cl.evaluation.online.metrics import refuse_non_finite


class MirrorFeatures(nn.Module):
    """Images [B, C, H, W] -> features [B, V, F] of the image and, with `mirrors`, of its mirror image (V = 2)."""

    def __init__(self, backbone: Backbone, mirrors: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.mirrors = mirrors

    def forward(self, images: Tensor) -> Tensor:
        views = [images, images.flip(-1)] if self.mirrors else [images]
        return torch.stack([self.backbone(view) for view in views], dim=1)


@dataclass(frozen=True)
class CachedResult:
    """The row of metrics, and the time that each part took."""

    row: dict[str, float]  # of metrics.csv
    features_seconds: float
    heads_seconds: float
    images_per_second: float  # through the backbone, mirror images counted


def evaluate_cached(linear: LinearEvaluation, data: ImageData, config: Linear) -> CachedResult:
    """Train the heads of `linear` on the features of the training images, choose the best one and validate it."""
    train, val = evaluation_sets(data, config)
    linear.to(data.settings.device)
    mirrors = config.views.flip_prob > 0
    start = time.perf_counter()
    features = _extract(MirrorFeatures(linear.backbone, mirrors), train, data)
    features_seconds = time.perf_counter() - start
    images = f"{len(train)} training images" + (" and their mirrors" if mirrors else "")
    _print_seconds(f"features of {images}", features_seconds)

    training = HeadTraining(
        config.run, batch=data.global_batch, flip_prob=config.views.flip_prob, fill=config.data.last_batch_fill
    )
    row = train_best_head(linear, features, training)
    heads_seconds = time.perf_counter() - start - features_seconds
    _print_seconds(f"{len(linear.grid)} heads, {linear.budget.epochs} epochs", heads_seconds)

    scores = {}
    if val is not None:
        queries = labelled_only(_extract(linear.backbone, val, data))
        if len(queries.targets):
            row |= head_accuracy(linear, queries)
            bank = Labelled(features.features[:, 0], features.targets)
            scores = feature_scores(bank, queries, linear.config.few_shot)
    linear.row = row | chosen_point(linear) | scores
    refuse_non_finite(linear.row, linear, f"after {linear.budget.steps} steps of the head")
    data.teardown("fit")
    forwarded = features.features.shape[:2].numel()
    return CachedResult(
        linear.row,
        features_seconds=features_seconds,
        heads_seconds=heads_seconds,
        images_per_second=forwarded / features_seconds,
    )


def _extract(network: nn.Module, images: ImageSet, data: ImageData) -> Labelled:
    """Extract features, with a progress bar on a terminal."""
    loader = data.eval_loader(images)
    hidden = rank() > 0 or not sys.stdout.isatty()
    bar = tqdm(loader, "features", len(loader), leave=False, unit="batch", disable=hidden, file=sys.stdout)
    return extract_features(network, bar, data.settings.device)


def _print_seconds(label: str, seconds: float) -> None:
    if rank() == 0:
        print(f"{label}: {seconds:.1f} s", flush=True)
