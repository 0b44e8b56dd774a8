"""Rank, world size and collectives. The only module that imports torch.distributed.

The loss of a global batch is the mean over the processes, and DDP averages their gradients. So the backward pass of
`gather` and `global_mean` sums the gradients of all processes: with DDP's 1 / W the result is the gradient of one
process on the global batch (vissl#230 has the full argument). torch's own `distributed.nn.functional` is deprecated,
and a plain all_reduce in the graph gives wrong gradients without an error.
"""

import atexit
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from cl.errors import Stopped

T = TypeVar("T")


def world_size() -> int:
    """The number of processes; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def connect(backend: str) -> None:
    """Join the process group that the environment describes (MASTER_ADDR, RANK and so on)."""
    dist.init_process_group(backend)
    if backend == "gloo":  # with NCCL this would hang if the process failed while others are in a collective
        atexit.register(disconnect)


def disconnect() -> None:
    """Leave the process group, after the last collective.

    Otherwise gloo's threads may free their last tensors while the interpreter shuts down, and abort: a run that
    succeeded, or stopped with its own exit code, then ends with SIGABRT (pytorch#190489). NCCL warns on every rank.
    """
    if world_size() > 1:
        dist.destroy_process_group()


def gather(x: Tensor) -> Tensor:
    """[N, ...] per process, the same shape on all -> [W N, ...] in rank order; differentiable."""
    return _Gather.apply(x) if world_size() > 1 else x


def global_mean(x: Tensor) -> Tensor:
    """The mean over processes of a tensor of any shape, the same on all -> that shape; differentiable."""
    return _GlobalMean.apply(x) if world_size() > 1 else x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0]).chunk(world_size())[rank()]


class _GlobalMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_ranks(x) / world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0]) / world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over processes, [...] -> [...]; no gradient."""
    if world_size() == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def gather_uneven(x: Tensor) -> Tensor:
    """[N_r, ...] per process, N_r may differ -> [sum N_r, ...] in rank order; no gradient."""
    if world_size() == 1:
        return x
    counts = gather(torch.tensor([len(x)], device=x.device)).tolist()
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = gather(padded).view(world_size(), max(counts), *x.shape[1:])
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast_from_rank_zero(compute: Callable[[], T]) -> T:
    """Call `compute` on rank 0 only and return its result on every rank."""
    if world_size() == 1:
        return compute()
    results = [compute() if rank() == 0 else None]
    dist.broadcast_object_list(results)
    return cast(T, results[0])


def rank_zero_first(compute: Callable[[], T]) -> T:
    """Call `compute` on every rank, on rank 0 first, where it downloads files and fills caches."""
    if world_size() == 1:
        return compute()
    if rank() > 0:
        dist.barrier()
    result = compute()
    if rank() == 0:
        dist.barrier()
    return result


def on_any_rank(flag: bool) -> bool:
    """Whether `flag` is true on any process. A collective: all processes must call it."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)))


def all_or_none(compute: Callable[[], T]) -> T:
    """Call `compute`, which has no collectives, on every rank; if it fails on one, all ranks raise.

    Otherwise the others would wait for it in their next collective, even if the failure is caught.
    """
    if world_size() == 1:
        return compute()
    failure: Exception | None = None
    result: T | None = None
    try:
        result = compute()
    except Exception as error:
        failure = error
    if on_any_rank(failure is not None):
        raise failure or Stopped("", 1)
    return cast(T, result)


def gather_dicts(local: dict[str, T]) -> list[dict[str, T]]:
    """The dicts of all processes, in rank order."""
    if world_size() == 1:
        return [local]
    gathered: list[dict[str, T]] = [{} for _ in range(world_size())]
    dist.all_gather_object(gathered, local)
    return gathered
