"""Decode, crop, resize and flip by NVIDIA DALI, on a GPU or on a CPU; colour as everywhere, in `device`.

Our sampler decides the order, our draws the views: workers send encoded images and numbers, DALI draws nothing and has
no epochs. (With its own reader and shards, Lightning once skipped every second epoch: solo-learn#346.)
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cl.batch import Batch
from cl.data.executors.base import Executor
from cl.data.executors.device import make_batch
from cl.data.images import ImageSet
from cl.data.sampler import SampleKey
from cl.data.views.rows import Rows, ViewPlanner
from cl.data.views.spec import Norm
from cl.errors import UserError


def check_dali() -> None:
    """UserError if DALI is not installed."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        raise UserError(
            "--loader: got dali, but DALI is not installed; expected --loader fast, or "
            "pip install nvidia-dali-cuda130 (on CUDA 12 drivers nvidia-dali-cuda120)"
        ) from None


@dataclass(frozen=True)
class EncodedBatch:
    """What a worker sends."""

    index: Tensor  # [B]
    target: Tensor  # [B]
    data: Tensor  # uint8, the encoded images one after another
    ends: list[int]  # of each image in that
    rows: tuple[Rows, ...]

    def pin_memory(self) -> "EncodedBatch":
        """torch's DataLoader calls it; DALI copies from there."""
        return replace(self, data=self.data.pin_memory())


class DaliExecutor(Executor):
    """The executor of `--loader dali`."""

    def __init__(
        self,
        images: ImageSet,
        planner: ViewPlanner,
        norm: Norm,
        device: torch.device,
        decode_on: torch.device,
        threads: int,
    ) -> None:
        self.images = images
        self.planner = planner
        self.norm = norm
        self.device = device
        self.channels = len(norm[0])
        self.decode_on = decode_on
        self.threads = threads
        self._pipeline: Any = None  # built by the first batch, and so never in a worker
        self._coming: Iterator[EncodedBatch] = iter(())  # what DALI pulls from
        self._begun: deque[EncodedBatch] = deque()  # what it works on

    def read(self, pairs: list[SampleKey]) -> EncodedBatch:
        epoch = pairs[0][0]
        index = np.array([i for _, i in pairs])
        images = [self.images.encoded(i) for i in index.tolist()]
        rows = self.planner.rows(epoch, index, np.array([[each.height, each.width] for each in images]))
        data = torch.frombuffer(bytearray().join(each.data for each in images), dtype=torch.uint8)
        ends = np.cumsum([len(each.data) for each in images]).tolist()
        return EncodedBatch(torch.from_numpy(index), torch.from_numpy(self.images.targets[index]), data, ends, rows)

    def submit(self, reads: Iterable[EncodedBatch]) -> Iterator[tuple[EncodedBatch, list[Tensor]]]:
        """DALI works ahead, on threads of its own; with each batch come its cropped views, uint8 [V B, C, S, S]."""
        self._coming = iter(reads)
        if self._pipeline is None:
            first = next(self._coming, None)
            if first is None:
                return
            self._coming = chain([first], self._coming)
            self._pipeline = self._build(first)
        try:
            while True:
                views = self._next_views()
                yield self._begun.popleft(), views
        except StopIteration:
            return
        finally:
            self._drop_the_rest()

    def _drop_the_rest(self) -> None:
        """Of an epoch that was broken off; then DALI may begin anew."""
        self._coming = iter(())
        with suppress(StopIteration):
            while True:
                self._pipeline.run()
        self._begun.clear()
        self._pipeline.reset()

    def to_batch(self, read: tuple[EncodedBatch, list[Tensor]]) -> Batch:
        what, views = read
        pixels = [(rows, each.__getitem__) for rows, each in zip(what.rows, views, strict=True)]
        return make_batch(what.index, what.target, self.device, self.norm, pixels)

    def _feed(self) -> list[Any]:
        """The inputs of the next batch, when DALI asks for them: encoded images, then place and edges of each view."""
        read = next(self._coming)
        self._begun.append(read)
        data = read.data.numpy()
        begins = [0, *read.ends[:-1]]
        images = [data[begin:end] for begin, end in zip(begins, read.ends, strict=True)]
        inputs: list[Any] = [images]
        for rows in read.rows:
            views = (each.reshape(-1, len(images), *each.shape[1:]) for each in _places(rows))
            for places, edges in zip(*views, strict=True):
                inputs += [places, edges]
        return inputs

    def _next_views(self) -> list[Tensor]:
        from nvidia.dali.plugin.pytorch import feed_ndarray

        views = []
        for output in self._pipeline.run():
            dense = output.as_tensor()
            pixels = torch.empty(dense.shape(), dtype=torch.uint8, device=self.decode_on)  # [B, V, C, S, S]
            feed_ndarray(dense, pixels)
            views.append(rearrange(pixels, "b v c h w -> (v b) c h w"))
        return views

    def _build(self, first: EncodedBatch) -> Any:
        """The pipeline for batches of at most this size."""
        from nvidia.dali import fn, types
        from nvidia.dali.pipeline import Pipeline

        on_gpu = self.decode_on.type == "cuda"
        grey = self.channels == 1
        batch = len(first.index)
        counts = [len(rows.crops.flip) // batch for rows in first.rows]
        pipeline = Pipeline(batch, self.threads, self.decode_on.index if on_gpu else None)
        with pipeline:
            encoded, *places = fn.external_source(source=self._feed, num_outputs=1 + 2 * sum(counts))
            image = fn.decoders.image(
                encoded,
                device="mixed" if on_gpu else "cpu",
                output_type=types.GRAY if grey else types.RGB,
                adjust_orientation=False,  # a turned photograph comes upright, as PPM
            )
            pairs = zip(places[::2], places[1::2], strict=True)
            stacks = [
                fn.stack(*(_view(image, place, edges, rows.size) for place, edges in islice(pairs, count)))
                for rows, count in zip(first.rows, counts, strict=True)
            ]
            pipeline.set_outputs(*stacks)
        pipeline.build()
        return pipeline


def _places(rows: Rows) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Of N views: box, margin, resized size, corner of the window, mirrored or not [N, 11]; and edges [N, 2, S].

    At the edge of a crop, torch's antialiasing takes the mean over the pixels that there are, DALI's repeats the last.
    So DALI gets a margin of zeros to look at, and what they took away is given back by a factor on the lines of the
    edge: `edges`, down and across.
    """
    box, resized, corner, flip = rows.crops
    scale = np.maximum(box[:, 2:] / resized, 1.0)  # [N, 2] input pixels to an output pixel
    margin = np.where(scale > 1, np.ceil(scale), 0).astype(np.int64)  # an enlarged edge is that pixel, with both
    pixel = np.arange(-margin.max(), 2 * margin.max() + 1) + 0.5
    weights = np.maximum(
        0.0, 1 - np.abs(pixel - scale[:, :, None] / 2) / scale[:, :, None]
    )  # of the first output pixel
    missing = weights.sum(axis=2) / weights[:, :, pixel > 0].sum(axis=2)  # [N, 2]; by symmetry also of the last one
    line = np.arange(rows.size) + corner[:, :, None]  # [N, 2, S] in the resized image
    edge = (line == 0) | (line == resized[:, :, None] - 1)
    places = np.concatenate([box, margin, resized, corner, flip[:, None]], axis=1)
    return places.astype(np.int32), np.where(edge, missing[:, :, None], 1.0).astype(np.float32)


def _view(image: Any, place: Any, edges: Any, size: int) -> Any:
    """DALI's graph of one view."""
    from nvidia.dali import fn, types

    pixels: Any = {"axes": (0, 1), "normalized_anchor": False, "normalized_shape": False}
    start, shape, margin, resized, corner, mirrored = (
        place[0:2],
        place[2:4],
        place[4:6],
        place[6:8],
        place[8:10],
        place[10],
    )
    box = fn.slice(image, start, shape, **pixels)
    box = fn.slice(box, -margin, shape + 2 * margin, out_of_bounds_policy="pad", fill_values=[0], **pixels)
    view = fn.resize(
        box,
        size=fn.cast(resized, dtype=types.FLOAT),
        roi_start=fn.cast(margin, dtype=types.FLOAT),
        roi_end=fn.cast(margin + shape, dtype=types.FLOAT),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
        dtype=types.FLOAT,
    )
    window = fn.slice(view, corner, [size, size], **pixels)
    window = window * fn.reshape(edges[0], shape=[size, 1, 1]) * fn.reshape(edges[1], shape=[1, size, 1])
    view = fn.flip(fn.cast(window, dtype=types.UINT8), horizontal=mirrored)  # the cast rounds
    return fn.transpose(view, perm=[2, 0, 1])
