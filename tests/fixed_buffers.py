"""A capture without a GPU, for tests: it demands what a CUDA graph does, and punishes what a graph would not notice.

Each call has memory of its own for its input, its output and its gradients, as with `make_graphed_callables`. When the
call is repeated, the old output and gradients become NaN, so that whoever still holds them shows it. A call of another
shape, a second call in a step, and a backward pass out of order are errors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl.nn.replays import Call, Replay


def capture(networks: Mapping[str, nn.Module], calls: Sequence[Call]) -> list[Replay]:
    """In the place of cl.nn.cuda_graphs.capture."""
    order = Order()
    return [FixedBuffers(networks[call.network], call, number, order) for number, call in enumerate(calls)]


class Order:
    """Graphs share memory as if calls came in the captured order, and backward passes in the reverse one."""

    def __init__(self) -> None:
        self.forward: list[int] = []  # calls of this step, in order, whose backward pass has not come
        self.latest = -1

    def called(self, number: int) -> None:
        if number <= self.latest:  # a step begins
            self.forward = []
        self.latest = number
        self.forward.append(number)

    def went_back(self, number: int) -> None:
        while self.forward and self.forward[-1] > number:  # had no gradient
            self.forward.pop()
        if not self.forward or self.forward.pop() != number:
            raise AssertionError(f"the backward pass of call {number} came out of order")


class FixedBuffers:
    def __init__(self, network: nn.Module, call: Call, number: int, order: Order) -> None:
        self.network = network
        self.run = network._compiled_call_impl or network._call_impl
        self.call = call
        self.number = number
        self.order = order
        self.replays = 0
        self.parameters = tuple(network.parameters())
        self.addresses = [tensor.data_ptr() for tensor in (*self.parameters, *network.buffers())]
        self.result: Tensor | None = None  # with its graph of autograd, until the backward pass
        self.output = call.input.new_empty(0)
        self.gradients: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        return _Replayed.apply(self, x, *self.parameters) if self.call.trained else self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape != self.call.input.shape:
            raise AssertionError(f"captured for {list(self.call.input.shape)}, called with {list(x.shape)}")
        if self.addresses != [tensor.data_ptr() for tensor in (*self.parameters, *self.network.buffers())]:
            raise AssertionError(f"a parameter or buffer of {self.call.network} has moved since the capture")
        self.order.called(self.number)
        self.replays += 1
        self.output.fill_(torch.nan)
        self.call.input.data.copy_(x)
        with torch.set_grad_enabled(self.call.trained):
            self.result = self.run(self.call.input)
        self.output = self.result.detach().clone()
        return self.output.detach()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        self.order.went_back(self.number)
        assert self.result is not None, "a second backward pass"
        wanted = [tensor for tensor in (self.call.input, *self.parameters) if tensor.requires_grad]
        found = torch.autograd.grad(self.result, wanted, gradient, allow_unused=True)
        self.result = None
        for old in self.gradients:
            old.fill_(torch.nan)
        self.gradients = [each for each in found if each is not None]
        remaining = iter(found)
        gradients = [next(remaining) if t.requires_grad else None for t in (self.call.input, *self.parameters)]
        return [each.detach() if each is not None else None for each in gradients]


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: FixedBuffers, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        return call.forward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.call.backward(gradient)
