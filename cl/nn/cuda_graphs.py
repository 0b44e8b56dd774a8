"""Calls of networks as CUDA graphs: a forward pass is one launch, and so is its backward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl.nn.replays import Call, Replay

WARM_UP = 11  # calls before a capture; torch's documentation asks for three, and eleven under DDP


def capture(networks: Mapping[str, nn.Module], calls: Sequence[Call]) -> list[Replay]:
    """A replay for each call, which must be replayed in this order; gradients flow through those of trained networks.

    The caller disables autocast's cache, whose tensors would outlive the capture, and restores buffers and generators,
    which the warm-up changes. Parameters and buffers must keep their memory afterwards.
    """
    trained = [call for call in calls if call.trained]
    replays = {id(call): replay for call, replay in zip(trained, _forward_and_backward(networks, trained), strict=True)}
    stream = torch.cuda.Stream()
    pool = torch.cuda.graph_pool_handle()  # of the forward passes alone: they keep nothing but their outputs
    for call in calls:
        if not call.trained:
            replays[id(call)] = _forward(networks[call.network], call.input, stream, pool)
    return [replays[id(call)] for call in calls]


class _Call(nn.Module):
    """A call of a network; torch replaces its `forward`, and wants the parameters in it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        self.output = self.network(x).clone()  # not a view, which could not be detached in place
        return self.output


def _forward_and_backward(networks: Mapping[str, nn.Module], calls: Sequence[Call]) -> list[Replay]:
    """All in one pool: autograd runs backward in the reverse order, as torch captures it."""
    if not calls:
        return []
    modules = tuple(_Call(networks[call.network]) for call in calls)
    examples = tuple((call.input,) for call in calls)
    torch.cuda.make_graphed_callables(modules, examples, num_warmup_iters=WARM_UP, allow_unused_input=True)
    for module in modules:
        # The recorded graph of autograd would keep the parameters' nodes on the stream of the capture: each backward
        # pass would synchronise with it for every parameter, and torch warns.
        module.output.detach_()
    return list(modules)


def _forward(network: nn.Module, x: Tensor, stream: torch.cuda.Stream, pool: Any) -> Replay:
    """For a teacher: `make_graphed_callables` is for callables that are trained."""
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                network(x)
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            output = network(x)

    def replay(images: Tensor) -> Tensor:
        x.copy_(images)
        graph.replay()
        return output.detach()

    return replay
