"""Batch norm with the statistics of the global batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cl.distributed import global_mean, world_size


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over all processes for inputs [B, C, ...], also on a CPU, where torch's SyncBatchNorm fails."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return self._activate(super().forward(input))
        dims = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        x = input if input.dtype == torch.float64 else input.float()  # half precision is too coarse for statistics
        mean = global_mean(x.mean(dims))
        centred = x - mean.view(shape)
        variance = global_mean(centred.square().mean(dims))  # biased, as in every batch norm
        self._update_running(mean.detach(), variance.detach(), world_size() * input.numel() // input.shape[1])
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return self._activate(normalised.to(input.dtype))

    def _activate(self, normalised: Tensor) -> Tensor:
        """Apply the activation that timm's norms contain."""
        for child in self.children():
            normalised = child(normalised)
        return normalised

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * count / max(1, count - 1), rate)


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms normalise as in training but do not update their statistics: for a recomputed forward pass."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    saved = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in saved:
        norm.momentum = 0.0
        norm.num_batches_tracked = count.clone() if count is not None else None
    try:
        yield
    finally:  # torch ends a recomputation by an exception as soon as it has all the tensors that it needs
        for norm, momentum, count in saved:
            norm.momentum = momentum
            norm.num_batches_tracked = count


def keep_statistics(network: nn.Module) -> None:
    """Let batch norms use their running statistics, and leave them as they are, until `network.train()` is called."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def synchronized(network: nn.Module, accelerator: str) -> nn.Module:
    """`network` with every batch norm replaced by one over all processes; on GPUs by torch's own."""
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
    converted = GlobalBatchNorm(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    converted.to(next(norm.buffers())).train(norm.training).load_state_dict(norm.state_dict())
    for name, parameter in norm.named_parameters():
        converted.register_parameter(name, parameter)
    for name, child in norm.named_children():
        converted.add_module(name, child)
    return converted
