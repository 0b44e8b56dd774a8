"""Rank, world size and collectives. The only module that imports torch.distributed.

The loss of a global batch is the mean over the processes, and DDP averages their gradients. So the backward pass of
`gather` and `global_mean` sums the gradients of all processes: with DDP's 1 / W the result is the gradient of one
process on the global batch (vissl#230 has the full argument). torch's own `distributed.nn.functional` is deprecated,
and a plain all_reduce in the graph gives wrong gradients without an error.
"""

import atexit
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from cl.errors import Stopped, UserError

T = TypeVar("T")
RANKS_COME = 300.0  # seconds: containers are unpacked and packages imported from slow disks, but never for so long
POLL = 0.1  # seconds


def world_size() -> int:
    """The number of processes; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def connect(backend: str) -> None:
    """Join the process group that the environment describes (MASTER_ADDR, RANK and so on)."""
    number = int(os.environ["RANK"])
    size = int(os.environ["WORLD_SIZE"])
    deadline = time.monotonic() + RANKS_COME
    store = _open_store(number, deadline)
    # The second round finds ranks that came and died while the others were waited for.
    for stage, limit in (("came", deadline), ("stayed", time.monotonic() + RANKS_COME)):
        _wait_for_ranks(store, stage, number, size, limit)
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=number, world_size=size)
    if backend == "gloo":  # with NCCL this would hang if the process failed while others are in a collective
        atexit.register(disconnect)


def _open_store(number: int, deadline: float) -> Store:
    """The store of the run, which rank 0 keeps, or torchrun; reached by Python sockets, which signals interrupt."""
    host = os.environ["MASTER_ADDR"]
    port = int(os.environ["MASTER_PORT"])
    kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeps = number == 0 and not kept_by_torchrun
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(f"MASTER_ADDR: got {host}, expected the address of the machine of rank 0 ({error})") from None
    if keeps:
        _check_port(port)
    else:
        _wait_for_listener(host, port, deadline)
    limit = timedelta(seconds=RANKS_COME)
    try:
        store: Store = TCPStore(host, port, None, is_master=keeps, timeout=limit, wait_for_workers=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Stopped(f"no connection to rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT): {reason}", 1) from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps its store when it starts ranks again
    return PrefixStore(f"cl/{attempt}", store)


def _check_port(port: int) -> None:
    """torch would print several lines of its own about a port that is taken."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise UserError(f"MASTER_PORT: got {port}, expected a free port ({os.strerror(error.errno or 0)})") from None


def _wait_for_listener(host: str, port: int, deadline: float) -> None:
    while True:
        try:
            return socket.create_connection((host, port), timeout=POLL).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise Stopped(
                    f"rank 0 did not come within {RANKS_COME:g} s: no answer from {host}:{port} "
                    f"(MASTER_ADDR, MASTER_PORT): {error}",
                    1,
                ) from None
        time.sleep(POLL)


def _wait_for_ranks(store: Store, stage: str, number: int, size: int, deadline: float) -> None:
    """Wait until all ranks have said that they are here; after the deadline, one of them names those that have not."""
    keys = [f"{stage}/{other}" for other in range(size)]
    try:
        store.set(keys[number], "1")
        while not store.check(keys):
            if time.monotonic() > deadline:
                came = [other for other, key in enumerate(keys) if store.check([key])]
                raise Stopped(_absent(came, size) if number == min(came) else "", 1)
            time.sleep(POLL)
    except RuntimeError:  # rank 0 kept the store
        raise Stopped("rank 0 of the run has ended", 1) from None


def _absent(came: Sequence[int], size: int) -> str:
    missing = [str(other) for other in range(size) if other not in came]
    return (
        f"of {size} processes, rank {', '.join(missing)} did not come within {RANKS_COME:g} s (came: rank "
        f"{', '.join(map(str, came))}); the launcher must start all of them with the same MASTER_ADDR and MASTER_PORT"
    )


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


def max_over_ranks(x: Tensor) -> Tensor:
    """The maximum over processes, [...] -> [...]; no gradient."""
    if world_size() == 1:
        return x
    largest = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


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


def everywhere(flag: Tensor) -> Tensor:
    """Whether the bool scalar `flag` is true on all processes, as such a tensor; nothing waits for the device."""
    if world_size() == 1:
        return flag
    number = flag.to(torch.int32)
    dist.all_reduce(number, dist.ReduceOp.MIN)
    return number.bool()


def stop_together(message: str, code: int) -> NoReturn:
    """Stop the run; all processes call this, and rank 0 alone prints the message."""
    raise Stopped(message if rank() == 0 else "", code)


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
