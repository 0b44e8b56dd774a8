"""Calls of networks as CUDA graphs: a forward pass is one launch, and so is its backward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl.nn.replays import Call, CaptureFailed, Replay

WARM_UP = 11  # calls before a capture; torch's documentation asks for three, and eleven under DDP


def capture(networks: Mapping[str, nn.Module], calls: Sequence[Call]) -> list[Replay]:
    """A replay for each call, which must be replayed in this order; gradients flow through those of trained networks.

    The caller disables autocast's cache, whose tensors would outlive the capture, and restores buffers and generators,
    which the warm-up changes. Parameters and buffers must keep their memory afterwards. CaptureFailed, or torch's
    OutOfMemoryError, if a network does what a graph cannot hold.
    """
    if not calls:
        return []
    try:
        return _capture(networks, calls)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CaptureFailed(str(error).partition("\n")[0]) from error


def _capture(networks: Mapping[str, nn.Module], calls: Sequence[Call]) -> list[Replay]:
    trained = [call for call in calls if call.trained]
    with torch.cuda.device(calls[0].input.device):  # else a stream is one of GPU 0, whatever --gpus
        replays = {id(c): replay for c, replay in zip(trained, _forward_and_backward(networks, trained), strict=True)}
        stream = torch.cuda.Stream()
        pool = torch.cuda.graph_pool_handle()  # of the forward passes alone: they keep nothing but their outputs
        for call in calls:
            if not call.trained:
                replays[id(call)] = _forward(networks[call.network], call.input, stream, pool)
    return [replays[id(call)] for call in calls]


def _use_workspaces_of_the_capture() -> None:
    """Let cuBLAS take new workspaces from the memory of the graphs.

    It keeps one for each stream, here from the warm-up. Lightning frees those when fitting starts, and a replay would
    still write to it (pytorch#193402).
    """
    torch._C._cuda_clearCublasWorkspaces()


class _Call(nn.Module):
    """A call of a network under the autocast of now; torch replaces its `forward`, and wants the parameters in it."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network = network
        self.device = device
        self.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def forward(self, x: Tensor) -> Tensor:
        captured = torch.cuda.is_current_stream_capturing()
        if captured:
            _use_workspaces_of_the_capture()
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None, cache_enabled=False):
            output: Tensor = self.network(x)
        output = output.clone()  # not a view, which could not be detached in place
        if captured:  # a warm-up's would keep the parameters' nodes on its stream
            self.output = output
        return output


def _forward_and_backward(networks: Mapping[str, nn.Module], calls: Sequence[Call]) -> list[Replay]:
    """All in one pool: autograd runs backward in the reverse order, as torch captures it."""
    if not calls:
        return []
    device = calls[0].input.device.type
    modules = tuple(_Call(networks[call.network], device) for call in calls)
    examples = tuple((call.input,) for call in calls)
    # Each call has its own autocast, for Lightning's backward passes run without: under it they would cast once more,
    # products of float32 to half precision.
    with torch.autocast(device, enabled=False):
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
        _use_workspaces_of_the_capture()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            output = network(x)

    def replay(images: Tensor) -> Tensor:
        x.copy_(images)
        graph.replay()
        return output.detach()

    return replay
