"""What is done to a network before it trains: batch norm over all processes, channels last, compilation."""

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
    """Change `module` in place; its weights keep their names."""
    if devices.processes > 1 and config.sync_batchnorm:
        synchronized(module, devices.accelerator)
    if devices.accelerator == "gpu" or _safe_in_channels_last(module.backbone):
        module.to(memory_format=torch.channels_last)
    if config.compile:
        module.backbone.compile()


def _safe_in_channels_last(backbone: Backbone) -> bool:
    """Whether a CPU may use it: a step of a ResNet-18 is then 1.0 (224 px) to 1.5 times (32 px, width 16) as fast.

    With fewer than sixteen channels, the block of AVX-512, a strided 1x1 convolution writes beyond its memory in the
    backward pass (oneDNN#6035, torch 2.14): width 4 ended in free(), width 8 in a segmentation fault, on some machines
    only. Other networks were not tried.
    """
    return isinstance(backbone, ResNetBackbone) and backbone.stage_width >= 16
