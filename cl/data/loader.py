"""From a sampler's (epoch, index) pairs to finished Batches, in this process or in workers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cl.batch import Batch
from cl.data.apply_torchvision import apply_eval, apply_view, normalize
from cl.data.draws import Ints, crop_boxes, draw
from cl.data.image_sets import ImageSet
from cl.data.sampler import EvalSampler, Pair, TrainSampler
from cl.data.view_spec import EvalSpec, Norm, Views, ViewSpec


class TrainReader(Dataset[Batch]):
    """Random views of images. It holds no state that changes, so workers may outlive an epoch."""

    def __init__(self, images: ImageSet, views: Views, norm: Norm, seed: int) -> None:
        self.images, self.views, self.norm, self.seed = images, views, norm, seed

    def __getitems__(self, pairs: list[Pair]) -> Batch:
        epoch, index = pairs[0][0], np.array([i for _, i in pairs])
        images = [self.images.read(i) for i in index.tolist()]
        views, number = [], 0
        for same_size in self.views:
            drawn = [self._view(images, spec, epoch, index, number + v) for v, spec in enumerate(same_size)]
            views.append(normalize(torch.stack(drawn), self.norm))
            number += len(same_size)
        return _batch(index, tuple(views), self.images)

    def _view(self, images: list[Tensor], spec: ViewSpec, epoch: int, index: Ints, number: int) -> Tensor:
        params = draw(spec, self.seed, epoch, index, number)
        sizes = np.array([image.shape[1:] for image in images])
        boxes = crop_boxes(params, spec, sizes[:, 0], sizes[:, 1])
        return torch.stack([apply_view(image, spec, params, i, boxes[i]) for i, image in enumerate(images)])


class EvalReader(Dataset[Batch]):
    """The one evaluation view of images."""

    def __init__(self, images: ImageSet, spec: EvalSpec, norm: Norm) -> None:
        self.images, self.spec, self.norm = images, spec, norm

    def __getitems__(self, pairs: list[Pair]) -> Batch:
        index = np.array([i for _, i in pairs])
        views = torch.stack([apply_eval(self.images.read(i), self.spec) for i in index.tolist()])
        return _batch(index, (normalize(views, self.norm)[None],), self.images)


def _batch(index: Ints, views: tuple[Tensor, ...], images: ImageSet) -> Batch:
    return Batch(torch.from_numpy(index), views, torch.from_numpy(images.targets[index]))


class EvalLoader:
    """Every image of this process's share once, in order."""

    def __init__(self, reader: Dataset[Batch], sampler: EvalSampler, workers: int) -> None:
        self._sampler = sampler
        self._batches = _dataloader(reader, sampler, workers, persistent=False)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._batches

    def close(self) -> None:
        """End the workers."""
        del self._batches


class TrainLoader:
    """One epoch of training batches, from a position that counts the batches the optimizer has consumed.

    Workers fetch ahead, so only the training loop knows what was consumed: it calls `step_done` after every step.
    """

    def __init__(self, reader: TrainReader, sampler: TrainSampler, workers: int) -> None:
        self._sampler = sampler
        self._batches = _dataloader(reader, sampler, workers, persistent=True)
        self._consumed = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator on purpose: Lightning asks for the iterator before the epoch is known (Lightning#21938), and a
        # generator starts to read at the first batch.
        self._sampler.start = self._consumed
        yield from self._batches

    def close(self) -> None:
        """End the workers."""
        del self._batches

    def set_epoch(self, epoch: int) -> None:
        self._sampler.epoch, self._consumed = epoch, 0

    def step_done(self) -> None:
        self._consumed += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._sampler.epoch, "consumed": self._consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler.epoch, self._consumed = state["epoch"], state["consumed"]


def _dataloader(
    reader: Dataset[Batch], sampler: TrainSampler | EvalSampler, workers: int, persistent: bool
) -> DataLoader[Batch]:
    return DataLoader(
        reader,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_read,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _as_read(batch: Any) -> Any:
    """The readers make whole batches already."""
    return batch
