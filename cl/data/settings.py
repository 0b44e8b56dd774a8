"""How a data set is loaded, from the flags and the place of the process in the run."""

from dataclasses import dataclass, replace

import torch

from cl.config.data import DataConfig
from cl.config.programs import Linear, Pretrain
from cl.data.sampler import RankSlice
from cl.data.views.spec import EvalSpec, Views, evaluation_view, linear_views, pretrain_views

CPU = torch.device("cpu")
HALF_DTYPES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class LoaderSettings:
    """How a data set is loaded: flags, training views, seed, rank, device and batches per step."""

    data: DataConfig
    views: Views
    seed: int
    rank_slice: RankSlice
    device: torch.device = CPU
    accumulate: int = 1  # batches per optimizer step
    batches_per_loss: int = 1  # how many of them the loader joins into one Batch
    dtype: torch.dtype = torch.float32  # of the views
    step_dtype: torch.dtype = torch.float32  # that the first layer of a training step casts the views to
    evaluated: EvalSpec | None = None  # the view of evaluation; by default that of the size of the training views
    reads_once: bool = False  # whether each image is read once, so that keeping it gains nothing

    @property
    def losses_per_step(self) -> int:
        return self.accumulate // self.batches_per_loss

    @property
    def dali_device(self) -> torch.device:
        """Where --loader dali decodes."""
        return CPU if self.data.dali_device == "cpu" else self.device


def pretrain_settings(config: Pretrain, rank_slice: RankSlice, device: torch.device) -> LoaderSettings:
    return replace(
        _run_settings(config, pretrain_views(config.views), rank_slice, device),
        accumulate=config.optim.accumulate,
        batches_per_loss=config.batches_per_loss,
    )


def linear_settings(config: Linear, rank_slice: RankSlice, device: torch.device) -> LoaderSettings:
    return replace(
        _run_settings(config, linear_views(config.views), rank_slice, device),
        reads_once=config.linear.protocol == "cached",
    )


def _run_settings(
    config: Pretrain | Linear, views: Views, rank_slice: RankSlice, device: torch.device
) -> LoaderSettings:
    """What both programs have in common."""
    view_dtype = torch.float64 if config.device.precision == "64" else torch.float32
    return LoaderSettings(
        data=config.data,
        views=views,
        evaluated=evaluation_view(config.views),
        seed=config.run.seed,
        rank_slice=rank_slice,
        device=device,
        dtype=view_dtype,
        step_dtype=HALF_DTYPES.get(config.device.precision, view_dtype),
    )
