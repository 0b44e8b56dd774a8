"""The calls of networks in a training step, captured once and replayed in each step."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """One call of a network: the network, the view and the resolution are those of the step's n-th call."""

    network: str
    input: Tensor  # an example; a capture may use its memory
    grad_mode: bool  # off for a teacher
    trained: bool  # whether the output has a gradient

    def matches(self, network: str, x: Tensor) -> bool:
        grads = self.grad_mode == torch.is_grad_enabled() and self.input.requires_grad == x.requires_grad
        # What has no gradient may have another type: its copy into the captured input converts it.
        same_type = self.input.dtype == x.dtype or not x.requires_grad
        return self.network == network and self.input.shape == x.shape and grads and same_type


Replay = Callable[[Tensor], Tensor]
Capture = Callable[[Mapping[str, nn.Module], Sequence[Call]], list[Replay]]


class CannotCapture(Exception):
    """A network does something that a capture cannot repeat."""


class CaptureFailed(Exception):
    """A capture has raised; CUDA may be unusable after it."""


class Replays:
    """Takes the place of the networks' calls in training mode; what was not captured runs as it would without it.

    A replay reads and writes the same memory each time. So every call of a step has its own, and what a call returned,
    or left as a gradient, is valid until the next batch: `copies` keeps it longer, for --accumulate.
    """

    def __init__(self, calls: Sequence[Call] = (), replays: Sequence[Replay] = (), copies: bool = False) -> None:
        self.calls = calls
        self.copies = copies
        self._replays = replays
        self._next = 0

    def install(self, networks: Mapping[str, nn.Module]) -> None:
        for name, network in networks.items():
            eager = network._compiled_call_impl or network._call_impl
            network._compiled_call_impl = partial(self._call, name, network, eager)  # as nn.Module.compile does

    def restart(self) -> None:
        """A step begins."""
        self._next = 0

    def _call(self, name: str, network: nn.Module, eager: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if network.training and len(args) == 1 and not kwargs:
            # In the captured order: the memory of captures overlaps where that order allows it.
            for number in range(self._next, len(self.calls)):
                if self.calls[number].matches(name, args[0]):
                    self._next = number + 1
                    output = self._replays[number](args[0])
                    return output.clone() if self.copies else output
        return eager(*args, **kwargs)

    def own_gradients(self, parameters: Iterator[nn.Parameter]) -> None:
        """After a backward pass: gradients in memory of their own, which no replay overwrites (pytorch#181723)."""
        if self.copies and self.calls:
            gradients = {p: p.grad for p in parameters if p.grad is not None}
            copied = torch._foreach_mul(list(gradients.values()), 1.0)
            for parameter, gradient in zip(gradients, copied, strict=True):
                parameter.grad = gradient


def record(networks: Mapping[str, nn.Module], step: Callable[[], object]) -> list[Call]:
    """The calls of `networks` in `step`, in order; CannotCapture if one of them makes the host wait for the device."""
    calls: list[Call] = []

    def noted(name: str, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with refused_waits(name):
            output = network._call_impl(*args, **kwargs)
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            example = args[0].detach().clone().requires_grad_(args[0].requires_grad)
            calls.append(Call(name, example, torch.is_grad_enabled(), output.requires_grad))
        return output

    for name, network in networks.items():
        network._compiled_call_impl = partial(noted, name, network)
    try:
        step()
    finally:
        for network in networks.values():
            network._compiled_call_impl = None
    return calls


@contextmanager
def refused_waits(name: str) -> Iterator[None]:
    """What waits for the device cannot be captured, and a capture that fails leaves CUDA in an unusable state."""
    if not torch.cuda.is_available():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise CannotCapture(f"the {name} waits for the GPU in its forward pass") from None
    finally:
        torch.cuda.set_sync_debug_mode("default")
