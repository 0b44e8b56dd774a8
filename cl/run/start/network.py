"""Prepare a network for training: synchronised batch norm, channels last, compilation, CUDA graphs."""

import time
from typing import Any

import torch
from torch import nn

from cl.backbones import Backbone
from cl.backbones.resnet import ResNetBackbone
from cl.batch import Batch
from cl.config.programs import Pretrain
from cl.config.run import DeviceConfig
from cl.config.views import sides
from cl.data.settings import HALF_DTYPES, LoaderSettings
from cl.errors import UserError
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.methods import ContrastiveModule
from cl.methods.rehearsal import captured
from cl.nn import cuda_graphs
from cl.nn.batch_norm import has_batch_norm, synchronized
from cl.nn.drop_path import has_dropout, with_global_drop_path
from cl.nn.replays import CannotCapture, Capture, CaptureFailed
from cl.run.start.devices import Devices, why_no_graphs

TrainedModule = ContrastiveModule[Any] | LinearEvaluation


def prepare_network(module: TrainedModule, config: DeviceConfig, devices: Devices, images: int) -> None:
    """Change `module` in place, without renaming its weights, for batches of `images` images in each process."""
    if devices.accelerator == "gpu":  # float32 convolutions round their factors to TF32, matrix products do not
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    if config.precision == "64":
        module.double()
    if devices.processes > 1 and config.sync_batchnorm:
        synchronized(module, devices.accelerator)
    with_global_drop_path(module, images)
    if devices.accelerator == "gpu" or _safe_in_channels_last(module.backbone):
        module.to(memory_format=torch.channels_last)
    if config.compile:
        module.backbone.compile()


def depends_on_processes(module: nn.Module, config: DeviceConfig) -> str:
    """Why a run of this network with another number of processes would be another run; "" if it would be the same."""
    if has_dropout(module):
        return "dropout draws other numbers in each process"
    if not config.sync_batchnorm and has_batch_norm(module):
        return "under --no_sync_batchnorm each process has statistics of its own"
    return ""


def _safe_in_channels_last(backbone: Backbone) -> bool:
    """Whether a CPU can use it: a step of a ResNet-18 is 1.0 (224 px) to 1.5 times (32 px, width 16) as fast.

    With fewer than 16 channels, the block size of AVX-512, the backward pass of a strided 1x1 convolution writes out of
    bounds (oneDNN#6035, torch 2.14): width 4 crashed in free(), width 8 with a segmentation fault, on some machines
    only. Other networks were not tested.
    """
    return isinstance(backbone, ResNetBackbone) and backbone.stage_width >= 16


def replay_networks(
    method: ContrastiveModule[Any], config: Pretrain, devices: Devices, settings: LoaderSettings
) -> dict[str, str]:
    """Capture the networks of a prepared method, which moves to its device; a row for the banner, or none.

    Before DDP and before the first step: what they leave on the parameters (hooks, nodes of autograd) must not exist
    while a backward pass is captured.
    """
    capture = capture_on(devices)
    if capture is None or config.device.graphs == "off":
        return {}
    if reason := why_no_graphs(config, devices):
        return {"graphs": f"off: {reason}"}
    method.to(settings.device)
    half = HALF_DTYPES.get(config.device.precision)
    began = time.perf_counter()
    try:
        method.replays = captured(method, example(config, settings), capture, half, settings.losses_per_step > 1)
    except CannotCapture as error:
        if config.device.graphs == "on":
            raise UserError(f"--graphs: got on, expected auto or off: {error}") from None
        return {"graphs": f"off: {error}"}
    except CaptureFailed as error:
        raise UserError(
            f"--graphs: got {config.device.graphs}, but the networks cannot be captured, expected off: {error}"
        ) from error
    except torch.OutOfMemoryError:
        raise UserError(
            f"--graphs: got {config.device.graphs}, but the captured networks do not fit into GPU memory, expected "
            "off, which needs less, or a smaller --batch_size"
        ) from None
    compiled = "compiled and captured" if config.device.compile else "captured"
    seconds = time.perf_counter() - began
    return {
        "graphs": f"{len(method.replays.calls)} calls of networks a step are replayed; {compiled} in {seconds:.0f} s"
    }


def capture_on(devices: Devices) -> Capture | None:
    """How networks are captured: on GPUs as CUDA graphs, on a CPU not at all."""
    return cuda_graphs.capture if devices.accelerator == "gpu" else None


def example(config: Pretrain, settings: LoaderSettings) -> Batch:
    """A batch of noise, of the shapes, and on a GPU of the type and layout, that the loader yields."""
    images = config.data.batch_size
    device = settings.device
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    generator = torch.Generator(device).manual_seed(0)
    views = []
    for same_size in settings.views:
        shape = len(same_size) * images, config.data.in_channels, *sides(same_size[0].size)
        noise = torch.randn(shape, dtype=settings.step_dtype, device=device, generator=generator)
        views.append(noise.to(memory_format=layout).unflatten(0, (len(same_size), images)))
    index = settings.rank_slice.rank * images + torch.arange(images, device=device)
    return Batch(index, tuple(views), torch.zeros_like(index))
