"""Undo an optimizer step on the device, by a flag that the host has not read."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer


class Undo:
    """Remembers tensors, and sets them back unless a step was taken: a few launches, however many they are."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault((tensor.device, tensor.dtype), []).append(_in_memory_order(tensor))
        self._groups = [_Group(views) for views in by_kind.values()]

    def save(self) -> None:
        for group in self._groups:
            torch.cat(group.views, out=group.saved)

    def undo_unless(self, taken: Tensor) -> None:
        """Set all tensors back to what they were at `save` unless `taken` (bool, scalar) is true."""
        for group in self._groups:
            now = torch.cat(group.views)
            torch.where(taken.to(now.device), now, group.saved, out=group.saved)
            torch._foreach_copy_(group.views, group.parts)


class _Group:
    """Tensors of one device and type, and a flat copy of all of them."""

    def __init__(self, views: list[Tensor]) -> None:
        self.views = views
        self.saved = torch.cat(views)
        self.parts = list(self.saved.split([len(view) for view in views]))


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A view [n] of all elements as they lie in memory, whatever the strides (channels last)."""
    dense = tensor.detach()
    if sum((size - 1) * stride for size, stride in zip(dense.shape, dense.stride(), strict=True)) + 1 != dense.numel():
        raise ValueError(f"expected a dense tensor, got the shape {tuple(dense.shape)} and strides {dense.stride()}")
    return dense.as_strided((dense.numel(),), (1,))


def make_state(optimizer: Optimizer) -> None:
    """Make what the optimizer would make in its first step, with the values that it would start from.

    A first step that is undone must find momentum and moments to set back.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter]:
                continue
            if isinstance(optimizer, Adam | AdamW):
                on_device = group["capturable"] or group["fused"]
                device = parameter.device if on_device else torch.device("cpu")
                state = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            elif group["momentum"]:  # SGD and timm's Lars; 0 * momentum + g is g, as in their first step
                state = {"momentum_buffer": torch.zeros_like(parameter)}
            else:
                state = {}
            optimizer.state[parameter] = state


def state_tensors(optimizer: Optimizer) -> list[Tensor]:
    """The parameters and all tensors of the optimizer's state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        *parameters,
        *(value for p in parameters for value in optimizer.state[p].values() if torch.is_tensor(value)),
    ]
