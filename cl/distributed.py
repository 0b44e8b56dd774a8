"""Who this process is among W, and what all of them compute together. The only module that imports torch.distributed.

The loss of a global batch is the mean of what the processes return, and DDP averages their gradients. So `gather` and
`global_mean` send back the sum of what every process wants: with DDP's 1 / W that is the gradient of one process on the
global batch (vissl#230 has the long argument). torch's own `distributed.nn.functional` is deprecated, and a plain
all_reduce in the graph is silently wrong.
"""

import atexit
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """W, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among W, 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def connect(backend: str) -> None:
    """Meet the other processes, where the environment says (MASTER_ADDR, RANK and so on)."""
    dist.init_process_group(backend)
    if backend == "gloo":  # NCCL waits for the others, in vain if this process fails while they are in a collective
        atexit.register(disconnect)


def disconnect() -> None:
    """Leave the other processes, once none has anything more to ask of them.

    Without it gloo's threads may let go of the last tensors only when Python is ending, and die of it: a run that has
    succeeded, or stopped with its own exit code, then ends with SIGABRT (pytorch#190489). NCCL warns on every rank.
    """
    if world_size() > 1:
        dist.destroy_process_group()


def gather(x: Tensor) -> Tensor:
    """[N, ...] of each process, of the same shape everywhere -> [W N, ...] in the order of ranks, differentiable."""
    return _Gather.apply(x) if world_size() > 1 else x


def global_mean(x: Tensor) -> Tensor:
    """The mean over processes of a tensor of the same shape everywhere, differentiable."""
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
    """The sum over processes, without a gradient."""
    if world_size() == 1:
        return x
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


def gather_uneven(x: Tensor) -> Tensor:
    """[N_r, ...] of each process, N_r different -> [sum N_r, ...] in the order of ranks, without a gradient."""
    if world_size() == 1:
        return x
    counts = gather(torch.tensor([len(x)], device=x.device)).tolist()
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = gather(padded).view(world_size(), max(counts), *x.shape[1:])
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast_from_rank_zero(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, on every rank; the others do not call it."""
    if world_size() == 1:
        return make()
    box = [make() if rank() == 0 else None]
    dist.broadcast_object_list(box)
    return cast(T, box[0])


def rank_zero_first(make: Callable[[], T]) -> T:
    """Every rank calls `make`, rank 0 before the others: it downloads and fills caches."""
    if world_size() == 1:
        return make()
    if rank() > 0:
        dist.barrier()
    made = make()
    if rank() == 0:
        dist.barrier()
    return made


def on_any_rank(flag: bool) -> bool:
    """Whether it is so on any process; each has to ask."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)))


def gather_dicts(mine: dict[str, T]) -> list[dict[str, T]]:
    """A dict of each process, in the order of ranks."""
    if world_size() == 1:
        return [mine]
    found: list[dict[str, T]] = [{} for _ in range(world_size())]
    dist.all_gather_object(found, mine)
    return found
