"""The loaders of a run, by role. Every one yields `Batch`."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pytorch_lightning import LightningDataModule

from cl.config.data import DataConfig
from cl.data.image_sets import ImageSet, Splits, stratified
from cl.data.loader import EvalLoader, EvalReader, TrainLoader, TrainReader
from cl.data.sampler import EvalSampler, Share, TrainSampler
from cl.data.view_spec import EvalSpec, Views

L = TypeVar("L", TrainLoader, EvalLoader)


@dataclass(frozen=True)
class LoaderSettings:
    """How a data set is fed: views for training, one evaluation view, batches, seed and share."""

    data: DataConfig
    views: Views
    seed: int
    share: Share
    accumulate: int = 1  # batches per optimizer step
    together: int = 1  # of those, how many the loader yields at once


class ImageData(LightningDataModule):
    """Training views of the training images, evaluation views of the validation images; serves both programs."""

    def __init__(self, splits: Splits, settings: LoaderSettings) -> None:
        super().__init__()
        self.splits, self.settings = splits, settings
        self._loaders: list[TrainLoader | EvalLoader] = []
        data, share = settings.data, settings.share
        batch, apart = data.batch_size * settings.together, settings.accumulate // settings.together
        self.sampler = TrainSampler(len(splits.train), batch, settings.seed, share, data.last_batch_fill, apart)

    @property
    def steps_per_epoch(self) -> int:
        """Of the optimizer."""
        return len(self.sampler) * self.settings.together // self.settings.accumulate

    @property
    def global_batch(self) -> int:
        """Images of an optimizer step."""
        return self.settings.data.batch_size * self.settings.share.world_size * self.settings.accumulate

    def train_dataloader(self) -> TrainLoader:
        reader = TrainReader(self.splits.train, self.settings.views, self.splits.norm, self.settings.seed)
        return self._opened(TrainLoader(reader, self.sampler, self.settings.data.workers()))

    def val_dataloader(self) -> EvalLoader | list[Any]:
        """An empty list is Lightning's word for no validation."""
        return self.eval_loader(self.splits.val) if self.splits.val is not None else []

    def bank_loader(self, size: int) -> EvalLoader:
        """The bank of kNN: at most `size` labelled training images (0 for all) as evaluation sees them."""
        labelled = self.splits.labelled().train
        return self.eval_loader(stratified(labelled, size or len(labelled)))

    def eval_loader(self, images: ImageSet) -> EvalLoader:
        """Any images as evaluation sees them."""
        data, spec = self.settings.data, EvalSpec(self.settings.views[0][0].size)
        reader = EvalReader(images, spec, self.splits.norm)
        sampler = EvalSampler(len(images), data.batch_size, self.settings.share)
        return self._opened(EvalLoader(reader, sampler, data.workers()))

    def views_loader(self, images: ImageSet) -> EvalLoader:
        """Two training views of any images, the same ones every time."""
        reader = TrainReader(images, (self.settings.views[0][:2],), self.splits.norm, self.settings.seed)
        sampler = EvalSampler(len(images), self.settings.data.batch_size, self.settings.share)
        return self._opened(EvalLoader(reader, sampler, self.settings.data.workers()))

    def _opened(self, loader: L) -> L:
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End all workers now: torch waits five seconds for each of those that it ends in a garbage collection."""
        while self._loaders:
            self._loaders.pop().close()
