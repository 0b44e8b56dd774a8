"""Compare time and memory of the losses with other toolkits: python bench/losses.py [--check].

Forward and backward on the CPU, two views, float32. Times are CPU seconds of one thread (medians of interleaved runs);
memory is the growth of the process's peak, in a new process per case (Linux). `--check` exits with 1 below a target.
`--on_device 512 4096` prints milliseconds and MiB of these batches as JSON, on a GPU if there is one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor
from watched import DEVICE, GPU

from cl.losses import barlow_twins_loss, nt_xent_loss

T = 0.1
REPEATS = 20  # on a GPU
Loss = Callable[[Tensor, Tensor], Tensor]  # takes two views, [B, D] each


def cross_entropy(z1: Tensor, z2: Tensor) -> Tensor:
    """NT-Xent as plain cross-entropy over the (2B)^2 similarities."""
    z = F.normalize(torch.cat([z1, z2]))
    similarity = (z @ z.T / T).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(z1)))


def our_nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
    return nt_xent_loss(torch.cat([z1, z2]), torch.arange(len(z1), device=z1.device).repeat(2), T)


def lightly_nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
    from lightly.loss import NTXentLoss

    return NTXentLoss(T)(z1, z2)


def classes(z: Tensor) -> Tensor:
    return torch.arange(len(z), device=z.device) % 10


def our_supcon(z1: Tensor, z2: Tensor) -> Tensor:
    return nt_xent_loss(torch.cat([z1, z2]), classes(z1).repeat(2), T)


def pml_supcon(z1: Tensor, z2: Tensor) -> Tensor:
    from pytorch_metric_learning.losses import SupConLoss

    return SupConLoss(T)(torch.cat([z1, z2]), classes(z1).repeat(2))


def our_barlow_twins(z1: Tensor, z2: Tensor) -> Tensor:
    return barlow_twins_loss(z1, z2, 5e-3, 1.0)


def lightly_barlow_twins(z1: Tensor, z2: Tensor) -> Tensor:
    from lightly.loss import BarlowTwinsLoss

    return BarlowTwinsLoss(5e-3)(z1, z2)


LOSSES: dict[str, Loss] = {
    "nt_xent": our_nt_xent,
    "nt_xent of lightly": lightly_nt_xent,
    "nt_xent as cross-entropy": cross_entropy,
    "supcon": our_supcon,
    "supcon of pytorch-metric-learning": pml_supcon,
    "barlow_twins": our_barlow_twins,
    "barlow_twins of lightly": lightly_barlow_twins,
}


class Target(NamedTuple):
    """At this size, ours must be `speed` times as fast as the peer, or need at most `memory` times its memory."""

    ours: str
    peer: str
    batch: int
    dim: int
    speed: float | None = None
    memory: float | None = None


TARGETS = [
    Target("nt_xent", "nt_xent of lightly", 2048, 128, speed=3.5),
    Target("nt_xent", "nt_xent as cross-entropy", 256, 128, speed=1 / 1.15),
    Target("supcon", "supcon of pytorch-metric-learning", 2048, 128, speed=4.0),
    Target("barlow_twins", "barlow_twins of lightly", 256, 8192, speed=20.0),
    Target("barlow_twins", "barlow_twins of lightly", 256, 2048, speed=1.0),
    Target("nt_xent", "nt_xent of lightly", 4096, 128, memory=0.1),
]
LARGEST = (16384, 128)  # batch and dimensions that ours must handle
LARGEST_MIB = 512  # with at most this much memory


def views(batch: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, dim, generator=generator)
    return z.requires_grad_(), (z + torch.randn(batch, dim, generator=generator)).detach().requires_grad_()


def seconds_of(loss: Loss, z: tuple[Tensor, Tensor]) -> float:
    """CPU seconds of one forward and backward pass."""
    began = time.process_time()
    loss(*z).backward()
    return time.process_time() - began


def compare(target: Target, repeats: int) -> tuple[float, float]:
    """Median seconds of ours and of the peer, run alternately."""
    z = views(target.batch, target.dim)
    pair = LOSSES[target.ours], LOSSES[target.peer]
    for loss in pair:
        seconds_of(loss, z)
    times = [[seconds_of(loss, z) for loss in pair] for _ in range(repeats)]
    our_times, peer_times = zip(*times, strict=True)
    return statistics.median(our_times), statistics.median(peer_times)


def peak(name: str, batch: int, dim: int) -> tuple[float, float]:
    """Growth of the peak in MiB, and CPU seconds, in a new process."""
    command = [sys.executable, __file__, "--peak", name, str(batch), str(dim)]
    mib, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(mib), float(seconds)


def print_peak(name: str, batch: int, dim: int) -> None:
    loss = LOSSES[name]
    seconds_of(loss, views(8, dim))  # imports and first allocations
    z = views(batch, dim)
    # Not ru_maxrss: a process inherits its parent's.
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    before = peak_kib()
    seconds = seconds_of(loss, z)
    print((peak_kib() - before) / 1024, seconds)


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def on_device(name: str, batch: int, dim: int) -> str:
    """Milliseconds of forward and backward, launched without waiting in between, and on a GPU the MiB that they add."""
    z = tuple(view.detach().to(DEVICE).requires_grad_() for view in views(batch, dim))
    loss = LOSSES[name]
    try:
        loss(*z).backward()
        if not GPU:
            return f"{1000 * seconds_of(loss, z):.2f}"
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPEATS):
            loss(*z).backward()
        end.record()
        end.synchronize()
    except (ImportError, torch.OutOfMemoryError) as error:
        return type(error).__name__
    mib = (torch.cuda.max_memory_allocated() - before) / 2**20
    return f"{start.elapsed_time(end) / REPEATS:.2f}, {mib:.0f}"


def all_on_device(batches: Sequence[int]) -> dict[str, str]:
    dims = (2048, 8192) if GPU else (512,)
    cases = [(name, batch, 128) for batch in batches for name in LOSSES if name.startswith("nt_xent")]
    cases += [(name, batches[0], dim) for dim in dims for name in LOSSES if name.startswith("barlow")]
    return {f"{name}, B {batch}, D {dim}:": on_device(name, batch, dim) for name, batch, dim in cases}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 below a target")
    parser.add_argument("--on_device", type=int, nargs="+", metavar="B", help="batches to measure on a GPU")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        name, batch, dim = args.peak
        print_peak(name, int(batch), int(dim))
        return 0
    if args.on_device:
        print(json.dumps(all_on_device(args.on_device)))
        return 0
    torch.set_num_threads(1)  # another thread's waiting would count as CPU time
    missed = []
    print(f"torch {torch.__version__}\n")
    print("| loss | peer | B | D | ours | theirs | ratio | target |\n|---|---|---|---|---|---|---|---|")
    for target in TARGETS:
        row = f"| {target.ours} | {target.peer} | {target.batch} | {target.dim} |"
        if target.speed is not None:
            ours, peer = compare(target, repeats=101 if target.batch * target.dim < 10**5 else 7)
            met = peer / ours >= target.speed
            print(f"{row} {1000 * ours:.1f} ms | {1000 * peer:.1f} ms | {peer / ours:.2f}x | >= {target.speed:.2f}x |")
        else:
            assert target.memory is not None
            ours, _ = peak(target.ours, target.batch, target.dim)
            peer, _ = peak(target.peer, target.batch, target.dim)
            met = ours <= target.memory * peer
            print(f"{row} {ours:.0f} MiB | {peer:.0f} MiB | {ours / peer:.3f} | <= {target.memory} |")
        if not met:
            missed.append(target)
    batch, dim = LARGEST
    mib, seconds = peak("nt_xent", batch, dim)
    print(f"| nt_xent | | {batch} | {dim} | {mib:.0f} MiB, {seconds:.1f} s | | | <= {LARGEST_MIB} MiB |")
    for target in missed:
        print(f"below target: {target}")
    failed = bool(missed) or mib > LARGEST_MIB
    return 1 if args.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
