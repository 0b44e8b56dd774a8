"""Prepare a network for training: synchronised batch norm, channels last, compilation."""

from typing import Any

import torch

from cl.backbones import Backbone
from cl.backbones.resnet import ResNetBackbone
from cl.config.run import DeviceConfig
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.methods import ContrastiveModule
from cl.nn.batch_norm import synchronized
from cl.run.start.devices import Devices

TrainedModule = ContrastiveModule[Any] | LinearEvaluation


def prepare_network(module: TrainedModule, config: DeviceConfig, devices: Devices) -> None:
    """Change `module` in place, without renaming its weights."""
    if devices.accelerator == "gpu":  # float32 convolutions round their factors to TF32, matrix products do not
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    if config.precision == "64":
        module.double()
    if devices.processes > 1 and config.sync_batchnorm:
        synchronized(module, devices.accelerator)
    if devices.accelerator == "gpu" or _safe_in_channels_last(module.backbone):
        module.to(memory_format=torch.channels_last)
    if config.compile:
        module.backbone.compile()


def _safe_in_channels_last(backbone: Backbone) -> bool:
    """Whether a CPU can use it: a step of a ResNet-18 is 1.0 (224 px) to 1.5 times (32 px, width 16) as fast.

    With fewer than 16 channels, the block size of AVX-512, the backward pass of a strided 1x1 convolution writes out of
    bounds (oneDNN#6035, torch 2.14): width 4 crashed in free(), width 8 with a segmentation fault, on some machines
    only. Other networks were not tested.
    """
    return isinstance(backbone, ResNetBackbone) and backbone.stage_width >= 16
