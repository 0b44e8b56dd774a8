"""The data loaders of a run, by role. All of them yield `Batch`."""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from pytorch_lightning import LightningDataModule

from cl.config.data import COLOURS
from cl.config.views import sides
from cl.data.cache import SHORT_SIDE, cached
from cl.data.decoding.decode import BrokenFile
from cl.data.executors.base import Executor
from cl.data.executors.choose import executor_of
from cl.data.executors.dali import check_dali
from cl.data.executors.resident_images import (
    DoesNotFit,
    device_bytes,
    free_memory,
    is_resident,
    load_into_memory,
    onto_device,
)
from cl.data.images import ArraySet, EncodedSet, ImageSet, Splits, Subset, stratified_labelled
from cl.data.kernels import obstacle
from cl.data.loader import BrokenFiles, EvalLoader, TrainLoader, Unchecked
from cl.data.order.grouped import shard_order
from cl.data.sampler import EvalSampler, TrainSampler
from cl.data.settings import LoaderSettings
from cl.data.views.rows import CentreView, RandomViews, ViewPlanner
from cl.data.views.spec import EvalSpec, Norm
from cl.data.worker_processes import PREFETCHED
from cl.distributed import on_any_rank
from cl.errors import UserError, mentioning

L = TypeVar("L", TrainLoader, EvalLoader)
SHARE = 0.5  # of a GPU's free memory that images take by themselves: the other half is left for the training
RESERVE = 2 << 30  # bytes that --resident on leaves


class ImageData(LightningDataModule):
    """Training views of the training images, evaluation views of the validation images; used by both programs."""

    def __init__(self, splits: Splits, settings: LoaderSettings) -> None:
        super().__init__()
        self.settings = settings
        self._loaders: list[TrainLoader | EvalLoader] = []
        self.broken = BrokenFiles()
        with mentioning(splits.left_out):
            self.sampler = TrainSampler(
                images=len(splits.train),
                batch_size=settings.data.batch_size * settings.batches_per_loss,
                seed=settings.seed,
                rank_slice=settings.rank_slice,
                fill=settings.data.last_batch_fill,
                accumulate=settings.losses_per_step,
                parts=settings.batches_per_loss,
                shards=shard_order(splits.train, settings.data),
            )
        self._check_settings()
        self.no_kernels = obstacle(settings.device)
        if len(splits.norm[0]) > COLOURS:
            self.no_kernels = self.no_kernels or "the kernels are for at most three channels"
        if on_any_rank(bool(self.no_kernels)):  # all processes round alike
            self.no_kernels = self.no_kernels or "another process cannot run the kernels"
        self.not_resident = ""  # why images do not lie on the GPU
        val = self._prepare(splits.val) if splits.val is not None else None
        self.splits = replace(splits, train=self._prepare(splits.train), val=val)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return len(self.sampler) * self.settings.batches_per_loss // self.settings.accumulate

    @property
    def global_batch(self) -> int:
        """Images per optimizer step."""
        return self.settings.data.batch_size * self.settings.rank_slice.world_size * self.settings.accumulate

    def __str__(self) -> str:
        """How the training images reach the device."""
        data = self.settings.data
        workers = "1 worker" if data.workers() == 1 else f"{data.workers()} workers"
        if data.loader == "dali":
            way = f"dali, decoding on the {_name_of(self.settings.dali_device)}"
        elif self._stays(self.splits.train):
            way = f"fast: all images lie on the {_name_of(self.settings.device)}, no workers"
        else:
            way = f"{data.loader}, {workers}"
        slower = self.no_kernels and self.settings.device.type == "cuda" and data.loader != "torchvision"
        torch_only = f"views by torch, slower: {self.no_kernels}" if slower else ""
        return "; ".join(filter(None, (way, self.not_resident, torch_only)))

    @property
    def bytes_on_device(self) -> int:
        """What images that stay there take."""
        sets = [images for images in (self.splits.train, self.splits.val) if images is not None]
        return sum(device_bytes(images) for images in sets if self._stays(images))

    def train_dataloader(self) -> TrainLoader:
        executor = self._executor(self.splits.train, RandomViews(self.settings.views, self.settings.seed))
        if not self.no_kernels:
            executor.dtype = self.settings.step_dtype  # rounded as autocast would
        unchecked = self._unchecked(self.splits.train)
        return self._tracked(TrainLoader(executor, self.sampler, self._workers(executor), unchecked))

    def bytes_in_flight(self) -> int:
        """How much of the training batches may lie in shared memory at a time."""
        executor = self._executor(self.splits.train, RandomViews(self.settings.views, self.settings.seed))
        workers = self._workers(executor)
        try:
            image = executor.bytes_per_image() if workers else 0
        except BrokenFile:
            return 0  # it is named when it is its turn
        return workers * PREFETCHED * self.sampler.batch_size * image

    def val_dataloader(self) -> EvalLoader | list[Any]:
        """An empty list tells Lightning that there is no validation."""
        return self.eval_loader(self.splits.val) if self.splits.val is not None else []

    def bank_loader(self, size: int) -> EvalLoader:
        """The kNN bank: evaluation views of at most `size` labelled training images (0 for all)."""
        return self.eval_loader(stratified_labelled(self.splits.train, size))

    def eval_loader(self, images: ImageSet) -> EvalLoader:
        """Evaluation views of any images."""
        spec = self.settings.evaluated or EvalSpec(self.settings.views[0][0].size)
        return self._sequential_loader(images, CentreView(spec))

    def views_loader(self, images: ImageSet) -> EvalLoader:
        """Two training views of each image, the same ones every time."""
        return self._sequential_loader(images, RandomViews(((2 * self.settings.views[0])[:2],), self.settings.seed))

    def _sequential_loader(self, images: ImageSet, planner: ViewPlanner) -> EvalLoader:
        executor = self._executor(images, planner)
        sampler = EvalSampler(len(images), self.settings.data.batch_size, self.settings.rank_slice)
        return self._tracked(EvalLoader(executor, sampler, self._workers(executor), self._unchecked(images)))

    def _check_settings(self) -> None:
        data = self.settings.data
        largest = max(max(sides(view.size)) for same_size in self.settings.views for view in same_size)
        if data.cache != "none" and largest > SHORT_SIDE:
            raise UserError(f"--cache: got {data.cache} with views of {largest} pixels, expected at most {SHORT_SIDE}")
        if data.resident == "on" and data.loader != "fast":
            raise UserError(f"--resident: got on with --loader {data.loader}, expected --loader fast")
        if data.bad_images == "trust":
            self._check_trust()
        if data.loader == "dali":
            check_dali()
            if data.dali_device == "gpu" and self.settings.device.type != "cuda":
                raise UserError("--dali_device: got gpu, but the run is on the CPU; expected cpu")

    def _check_trust(self) -> None:
        data = self.settings.data
        if data.loader == "dali":  # decodes where a broken file cannot be replaced
            raise UserError("--bad_images: got trust with --loader dali, expected --loader fast or torchvision")
        for flag, value, without in (("cache", data.cache, "none"), ("resident", data.resident, "auto")):
            if value != without and value != "off":
                raise UserError(
                    f"--bad_images: got trust with --{flag} {value}, which reads every file at the start; "
                    f"expected skip, or --{flag} {without}"
                )

    def _prepare(self, images: ImageSet) -> ImageSet:
        """Cache the images or load them into memory, where the flags and the loader allow it."""
        if isinstance(images, Subset):
            images = Subset(self._cached(images.images), images.chosen)
        else:
            images = self._cached(images)
        data = self.settings.data
        unchecked = data.bad_images == "trust" and not is_resident(images)
        if data.loader != "fast" or data.resident == "off" or unchecked:
            return images
        images = load_into_memory(images)
        return images if is_resident(images) else self._onto_device(images)

    def _onto_device(self, images: ImageSet) -> ImageSet:
        """Keep `images` on a GPU, where the flags allow it and they fit."""
        data = self.settings.data
        device = self.settings.device
        wanted = data.resident == "on"
        if not wanted and (self.no_kernels or self.settings.reads_once):
            return images
        if self.no_kernels:
            reason = f"the images are not small ones of one size, and for others {self.no_kernels}"
            raise UserError(f"--resident: got on, but {reason}; expected auto")
        free = free_memory(device)
        try:
            return onto_device(images, device, free - RESERVE if wanted else int(free * SHARE), data.workers())
        except DoesNotFit as reason:
            if wanted:
                raise UserError(f"--resident: got on, but {reason}; expected off, or --cache raw256") from None
            self.not_resident = str(reason)
            return images

    def _stays(self, images: ImageSet) -> bool:
        """Whether no worker is needed for `images`."""
        data = self.settings.data
        return data.loader == "fast" and data.resident != "off" and is_resident(images)

    def _cached(self, images: ImageSet) -> ImageSet:
        data = self.settings.data
        if data.cache == "none" or not isinstance(images, EncodedSet):
            return images
        return cached(images, data.cache, data.cache_dir, data.workers())

    def _executor(self, images: ImageSet, planner: ViewPlanner) -> Executor:
        kernels = not self.no_kernels
        return executor_of(images, planner, self.splits.norm, self.settings, kernels=kernels, stays=self._stays(images))

    def _unchecked(self, images: ImageSet) -> Unchecked | None:
        trusted = self.settings.data.bad_images == "trust" and not is_resident(images)
        return Unchecked(images, self.broken) if trusted else None

    def _workers(self, executor: Executor) -> int:
        return self.settings.data.workers() if executor.reads_files else 0

    def _tracked(self, loader: L) -> L:
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """Stop all workers now: torch waits five seconds for each worker that garbage collection stops."""
        while self._loaders:
            self._loaders.pop().close()


def evaluation_only(images: ImageSet, norm: Norm, settings: LoaderSettings) -> ImageData:
    """`images` as the validation images of a data set of which nothing is trained, and each is read once."""
    size = settings.data.batch_size * settings.rank_slice.world_size
    unused = ArraySet(torch.zeros(size, 1, 1, 1, dtype=torch.uint8), np.full(size, -1))
    data = replace(settings.data, shuffle="images")
    own = replace(settings, data=data, accumulate=1, batches_per_loss=1, reads_once=True)
    return ImageData(Splits(unused, images, (), norm), own)


def _name_of(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "CPU"
