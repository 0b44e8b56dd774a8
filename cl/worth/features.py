"""Features of the compared networks, computed once: they are kept in the user's cache until that is deleted."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cl.batch import Batch
from cl.config.data import DataConfig
from cl.config.views import ViewsConfig
from cl.data.datamodule import ImageData, evaluation_only
from cl.data.images import ImageSet
from cl.data.loader import EvalLoader
from cl.data.sampler import RankSlice
from cl.data.settings import LoaderSettings
from cl.data.splitting.kept_arrays import Arrays, kept
from cl.data.views.spec import Views, linear_views
from cl.evaluation.features import extract_features
from cl.machine.home import cache_folder
from cl.nn.digest import digest_of_weights
from cl.worth.networks import Row

VERSION = 1  # of what is kept


class EachView(nn.Module):
    """Views [B, V, C, H, W] -> features [B, V, F]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: Tensor) -> Tensor:
        return torch.stack([self.network(view) for view in views.unbind(1)], dim=1)


@dataclass(frozen=True)
class Extractor:
    """How images are read and passed through networks."""

    data: DataConfig
    device: torch.device

    def evaluation_views(self, row: Row, images: ImageSet, mirrors: bool) -> Tensor:
        """Features [N, V, F] of the evaluation view of each image and, with `mirrors`, of its mirror image (V = 2)."""
        views = linear_views(ViewsConfig(row.view.size))
        path = kept_file("features", row_key(row), images.fingerprint(), f"evaluation {mirrors}")

        def compute() -> Arrays:
            data, prepared = self._open(row, images, views)
            return self._extract(row, data, data.eval_loader(prepared), mirrors)

        return torch.from_numpy(kept(path, compute)["features"])

    def training_views(self, row: Row, images: ImageSet, views: Views) -> Tensor:
        """Features [N, 2, F] of two training views of each image: the same two for every network."""
        path = kept_file("features", row_key(row), images.fingerprint(), repr(views))

        def compute() -> Arrays:
            data, prepared = self._open(row, images, views)
            return self._extract(row, data, data.views_loader(prepared), mirrors=False)

        return torch.from_numpy(kept(path, compute)["features"])

    def _open(self, row: Row, images: ImageSet, views: Views) -> tuple[ImageData, ImageSet]:
        """Loaders, and `images` as they read them."""
        settings = LoaderSettings(
            self.data, views, seed=0, rank_slice=RankSlice(0, 1), device=self.device, evaluated=row.view
        )
        data = evaluation_only(images, row.norm, settings)
        return data, data.splits.val or images

    def _extract(self, row: Row, data: ImageData, batches: EvalLoader, mirrors: bool) -> Arrays:
        network = EachView(row.network.to(self.device))
        features, _ = extract_features(network, _views_of(_shown(batches, row), mirrors), self.device)
        data.teardown("worth")
        return {"features": features.cpu().numpy()}


def _shown(batches: EvalLoader, row: Row) -> Iterable[Batch]:
    hidden = not sys.stderr.isatty()
    return tqdm(batches, f"features of {row.name}", len(batches), unit="batch", disable=hidden, leave=False)


def _views_of(batches: Iterable[Batch], mirrors: bool) -> Iterator[Batch]:
    """Batches whose images are all full-size views, [B, V, C, H, W], with the mirror images as further views."""
    for batch in batches:
        views = batch.views[0].transpose(0, 1)
        views = torch.cat([views, views.flip(-1)], dim=1) if mirrors else views
        yield Batch(batch.index, (views[None],), batch.target)


def row_key(row: Row) -> str:
    """A key of the network, its weights and the views that it takes."""
    return repr((row.network, row.view, row.norm, digest_of_weights(row.network)))


def kept_file(kind: str, *parts: str) -> Path | None:
    """The file in the user's cache for what depends on `parts`; None without a cache folder."""
    folder = cache_folder()
    key = hashlib.sha256("\n".join([str(VERSION), *parts]).encode()).hexdigest()[:16]
    return folder / f"worth-{kind}-{key}.npz" if folder is not None else None
