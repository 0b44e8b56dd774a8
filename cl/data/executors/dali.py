"""Decode, crop, resize and flip with NVIDIA DALI, on a GPU or a CPU; colour as in the other executors, in `device`.

Our sampler decides the order and our draws the views: workers send encoded images and numbers, DALI draws nothing and
has no epochs. (With DALI's own reader and shards, Lightning skipped every second epoch: solo-learn#346.)
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
from cl.config.views import Size, sides
from cl.data.executors.base import Executor, epoch_and_index
from cl.data.executors.device import make_batch
from cl.data.images import ImageSet, expect
from cl.data.sampler import SampleKey
from cl.data.views.rows import Rows, ViewPlanner
from cl.data.views.spec import Norm
from cl.errors import UserError
from cl.machine.extras import how_to_install


def check_dali() -> None:
    """UserError if DALI is not installed."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        raise UserError(
            "--loader: got dali, but DALI is not installed; expected --loader fast, or "
            f"{how_to_install('dali')} (on CUDA 12 drivers: pip install nvidia-dali-cuda120)"
        ) from None


@dataclass(frozen=True)
class EncodedBatch:
    """A batch as a worker sends it."""

    index: Tensor  # [B]
    target: Tensor  # [B]
    data: Tensor  # uint8, the encoded images one after another
    ends: list[int]  # of each image in `data`
    rows: tuple[Rows, ...]

    def pin_memory(self) -> "EncodedBatch":
        """torch's DataLoader calls this; DALI copies from pinned memory."""
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
        self._pipeline: Any = None  # built for the first batch, so never in a worker
        self._reads: Iterator[EncodedBatch] = iter(())  # DALI pulls from it
        self._in_flight: deque[EncodedBatch] = deque()  # pulled, not yet yielded

    def read(self, keys: list[SampleKey]) -> EncodedBatch:
        epoch, index = epoch_and_index(keys)
        expect(self.images, index.tolist())
        images = [self.images.encoded(i) for i in index.tolist()]
        rows = self.planner.rows(epoch, index, np.array([[image.height, image.width] for image in images]))
        return EncodedBatch(
            index=torch.from_numpy(index),
            target=torch.from_numpy(self.images.targets[index].astype(np.int64)),
            data=torch.frombuffer(bytearray().join(image.data for image in images), dtype=torch.uint8),
            ends=np.cumsum([len(image.data) for image in images]).tolist(),
            rows=rows,
        )

    def submit(self, reads: Iterable[EncodedBatch]) -> Iterator[tuple[EncodedBatch, list[Tensor]]]:
        """Yield each batch with its cropped views, uint8 [V B, C, S, S]; DALI works ahead in its own threads."""
        self._reads = iter(reads)
        if self._pipeline is None:
            first = next(self._reads, None)
            if first is None:
                return
            self._reads = chain([first], self._reads)
            self._pipeline = self._build(first)
        try:
            while True:
                views = self._next_views()
                yield self._in_flight.popleft(), views
        except StopIteration:
            return
        finally:
            self._drain()

    def _drain(self) -> None:
        """Discard what is left of an interrupted epoch, so that DALI can start the next one."""
        self._reads = iter(())
        with suppress(StopIteration):
            while True:
                self._pipeline.run()
        self._in_flight.clear()
        self._pipeline.reset()

    def to_batch(self, read: tuple[EncodedBatch, list[Tensor]]) -> Batch:
        batch, resolutions = read
        views = [(rows, pixels.__getitem__) for rows, pixels in zip(batch.rows, resolutions, strict=True)]
        return make_batch(batch.index, batch.target, self.device, self.norm, views)

    def _feed(self) -> list[Any]:
        """The inputs of the next batch, for DALI: encoded images, then box and edge factors of each view."""
        batch = next(self._reads)
        self._in_flight.append(batch)
        data = batch.data.numpy()
        begins = [0, *batch.ends[:-1]]
        images = [data[begin:end] for begin, end in zip(begins, batch.ends, strict=True)]
        inputs: list[Any] = [images]
        for rows in batch.rows:
            per_view = (values.reshape(-1, len(images), *values.shape[1:]) for values in _geometry(rows))
            for geometry, edges in zip(*per_view, strict=True):
                inputs += [geometry, edges]
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
        """The pipeline for batches of at most the size of `first`."""
        from nvidia.dali import fn, types
        from nvidia.dali.pipeline import Pipeline

        on_gpu = self.decode_on.type == "cuda"
        grey = self.channels == 1
        batch = len(first.index)
        counts = [len(rows.crops.flip) // batch for rows in first.rows]
        pipeline = Pipeline(
            batch_size=batch, num_threads=self.threads, device_id=self.decode_on.index if on_gpu else None
        )
        with pipeline:
            encoded, *inputs = fn.external_source(source=self._feed, num_outputs=1 + 2 * sum(counts))
            image = fn.decoders.image(
                encoded,
                device="mixed" if on_gpu else "cpu",
                output_type=types.GRAY if grey else types.RGB,
                adjust_orientation=False,  # rotated photographs arrive upright, as PPM
            )
            pairs = zip(inputs[::2], inputs[1::2], strict=True)
            stacks = [
                fn.stack(*(_view(image, geometry, edges, rows.size) for geometry, edges in islice(pairs, count)))
                for rows, count in zip(first.rows, counts, strict=True)
            ]
            pipeline.set_outputs(*stacks)
        pipeline.build()
        return pipeline


def _geometry(rows: Rows) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Box, margin, resized size, window corner and flip of N views [N, 11]; and their edge factors [N, H + W].

    At the edge of a crop, torch's antialiasing averages over the pixels that exist; DALI's repeats the last pixel. So
    DALI gets a margin of zeros, and the edge factors (down and across) brighten the edge lines that the zeros darkened.
    """
    box, resized, corner, flip = rows.crops
    scale = np.maximum(box[:, 2:] / resized, 1.0)  # [N, 2] input pixels per output pixel
    margin = np.where(scale > 1, np.ceil(scale), 0).astype(np.int64)  # enlarging: both repeat the edge pixel
    pixel = np.arange(-margin.max(), 2 * margin.max() + 1) + 0.5
    distance = np.abs(pixel - scale[:, :, None] / 2)  # to the centre of the first output pixel
    weights = np.maximum(0.0, 1 - distance / scale[:, :, None])
    factor = weights.sum(axis=2) / weights[:, :, pixel > 0].sum(axis=2)  # [N, 2]; by symmetry also for the last pixel
    edges = []
    for axis, side in enumerate(sides(rows.size)):
        line = np.arange(side) + corner[:, axis, None]  # [N, side] in the resized image
        is_edge = (line == 0) | (line == resized[:, axis, None] - 1)
        edges.append(np.where(is_edge, factor[:, axis, None], 1.0))
    geometry = np.concatenate([box, margin, resized, corner, flip[:, None]], axis=1)
    return geometry.astype(np.int32), np.concatenate(edges, axis=1).astype(np.float32)


def _view(image: Any, geometry: Any, edges: Any, size: Size) -> Any:
    """DALI's graph of one view."""
    from nvidia.dali import fn, types

    height, width = sides(size)
    in_pixels: Any = {"axes": (0, 1), "normalized_anchor": False, "normalized_shape": False}
    start = geometry[0:2]
    shape = geometry[2:4]
    margin = geometry[4:6]
    resized = geometry[6:8]
    corner = geometry[8:10]
    flip = geometry[10]
    box = fn.slice(image, start, shape, **in_pixels)
    box = fn.slice(box, -margin, shape + 2 * margin, out_of_bounds_policy="pad", fill_values=[0], **in_pixels)
    view = fn.resize(
        box,
        size=fn.cast(resized, dtype=types.FLOAT),
        roi_start=fn.cast(margin, dtype=types.FLOAT),
        roi_end=fn.cast(margin + shape, dtype=types.FLOAT),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
        dtype=types.FLOAT,
    )
    window = fn.slice(view, corner, [height, width], **in_pixels)
    window = window * fn.reshape(edges[:height], shape=[height, 1, 1]) * fn.reshape(edges[height:], shape=[1, width, 1])
    view = fn.flip(fn.cast(window, dtype=types.UINT8), horizontal=flip)  # the cast rounds
    return fn.transpose(view, perm=[2, 0, 1])
