"""Batch norm whose statistics are those of the global batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cl.distributed import global_mean, world_size


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, for any input [B, C, ...]; torch's SyncBatchNorm refuses a CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return self._then(super().forward(input))
        over = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        x = input if input.dtype == torch.float64 else input.float()  # statistics in half precision are none
        mean = global_mean(x.mean(over))
        centred = x - mean.view(shape)
        variance = global_mean(centred.square().mean(over))  # biased, as batch norm normalises
        self._remember(mean.detach(), variance.detach(), world_size() * input.numel() // input.shape[1])
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return self._then(normalised.to(input.dtype))

    def _then(self, normalised: Tensor) -> Tensor:
        """The activation that timm's norms have inside."""
        for child in self.children():
            normalised = child(normalised)
        return normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics as torch keeps them, with the unbiased variance."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * count / max(1, count - 1), rate)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms normalise as they do in training, but remember nothing: for a forward pass that is a repetition."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, count.clone() if count is not None else None
    try:
        yield
    finally:  # a repetition is broken off, by an exception, when all that was asked for is there
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


def synchronized(network: nn.Module, accelerator: str) -> nn.Module:
    """`network` with every batch norm over all processes: torch's own on GPUs."""
    if accelerator == "gpu":
        if any(isinstance(module, _BatchNorm) and any(module.children()) for module in network.modules()):
            from timm.layers.norm_act import convert_sync_batchnorm  # torch's own drops the activation

            return convert_sync_batchnorm(network)
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if isinstance(network, _BatchNorm):
        return _global(network)
    for name, child in network.named_children():
        network.add_module(name, synchronized(child, accelerator))
    return network


def _global(norm: _BatchNorm) -> GlobalBatchNorm:
    kept = norm.track_running_stats
    made = GlobalBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, kept)
    made.to(next(norm.buffers())).train(norm.training).load_state_dict(norm.state_dict())
    for name, parameter in norm.named_parameters():
        made.register_parameter(name, parameter)
    for name, child in norm.named_children():
        made.add_module(name, child)
    return made
