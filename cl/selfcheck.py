"""Check that several processes compute what one would: python -m cl.selfcheck [--accelerator gpu]; exit code 0 or 1.

Compares every method's loss and every parameter's gradient: two processes under DDP, each with half of a batch, against
one process with the whole batch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.distributed import connect, disconnect, global_mean, rank, world_size
from cl.methods import ContrastiveModule, build_method
from cl.nn.batch_norm import synchronized
from cl.optim.schedules import Budget
from cl.run.start.processes import rank_environments, wait_for

TOLERANCE = 1e-10  # relative, in float64
IMAGES = 12
CLASSES = 4
PROCESSES = 2
TINY = ["--width", "4", "--proj_hidden_dim", "16", "--crop_size", "8", "--small_crop_size", "6", "--gaussian_prob", "0"]
TINY += ["--no_zero_init_residual"]  # a gradient of zero cannot be compared
CASES: dict[str, list[str]] = {name: ["--method", name] for name in METHODS}
CASES |= {f"{name}, 2 + 6 crops": [*flags, "--multicrop"] for name, flags in CASES.items()}
CASES |= {
    f"{name}, {case}": ["--method", name, *flags]
    for name, config in METHODS.items()
    for case, flags in config.selfcheck_cases.items()
}


class Outcome(NamedTuple):
    loss: Tensor  # of the global batch
    gradients: dict[str, Tensor]


def whole_batch(images: int, small: int, dtype: torch.dtype) -> Batch:
    """Random views of 8 pixels and `small` views of 6; the first third of the images has no label."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, images, 3, 8, 8)]
    if small:
        shapes.append((small, images, 3, 6, 6))
    views = tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    index = torch.arange(images)
    return Batch(index, views, torch.where(index < images // 3, -1, index % CLASSES))


def part_of(batch: Batch) -> Batch:
    """This process's slice of the global batch."""
    count = len(batch.index) // world_size()
    rows = slice(rank() * count, (rank() + 1) * count)
    return Batch(batch.index[rows], tuple(views[:, rows] for views in batch.views), batch.target[rows])


class _Step(nn.Module):
    """A method's training step as a forward pass, because DDP wraps forward passes only."""

    def __init__(self, module: ContrastiveModule[Any]) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return self.module.training_step(batch, 0)


def outcome(flags: list[str], images: int, dtype: torch.dtype, device: torch.device, sync: bool = True) -> Outcome:
    """Loss and gradients of the whole batch, computed by all processes together."""
    config = parse(Pretrain, ["custom", "resnet18", *TINY, "--proj_output_dim", "8", *flags]).config
    torch.manual_seed(0)
    module = build_method(config, CLASSES, Budget(images, 1, 1)).to(device, dtype)
    step: nn.Module = _Step(module)
    if world_size() > 1:
        step = DistributedDataParallel(synchronized(step, "gpu" if device.type == "cuda" else "cpu") if sync else step)
    small = config.views.n_small_crops if config.views.multicrop else 0
    loss = step(part_of(whole_batch(images, small, dtype)).to(device))
    loss.backward()
    gradients = {name: p.grad.detach().cpu() for name, p in module.named_parameters() if p.grad is not None}
    return Outcome(global_mean(loss.detach()).cpu(), gradients)


def largest_error(actual: Outcome, expected: Outcome) -> tuple[float, float]:
    """The relative error of the loss, and the largest relative error of a parameter's gradient."""
    assert actual.gradients.keys() == expected.gradients.keys()
    errors = [
        float((actual.gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-30))
        for name, gradient in expected.gradients.items()
    ]
    return float((actual.loss - expected.loss).abs() / expected.loss.abs()), max(errors)


def _run_rank(folder: Path, accelerator: str) -> None:
    """Run all cases in one of the processes; rank 0 saves the outcomes."""
    one_gpu_each = accelerator == "gpu" and torch.cuda.device_count() >= PROCESSES
    device = torch.device("cpu")
    if accelerator == "gpu":
        device = torch.device("cuda", int(os.environ["RANK"]) if one_gpu_each else 0)
        torch.cuda.set_device(device)
    connect("nccl" if one_gpu_each else "gloo")
    outcomes = {name: outcome(flags, IMAGES, torch.float64, device)._asdict() for name, flags in CASES.items()}
    if rank() == 0:
        torch.save(outcomes, folder / "outcomes.pt")
    disconnect()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cl.selfcheck", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        print("error: --accelerator: got gpu, but torch finds no GPU on this machine", file=sys.stderr)
        return 2
    if args.part is not None:
        _run_rank(args.part, args.accelerator)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cl.selfcheck", "--accelerator", args.accelerator, "--part", folder]
        code = wait_for([subprocess.Popen(command, env=environment) for environment in rank_environments(PROCESSES)])
        if code:
            return 1
        outcomes = torch.load(Path(folder) / "outcomes.pt", weights_only=True)
    device = torch.device("cuda" if args.accelerator == "gpu" else "cpu")
    print(f"{PROCESSES} processes against one, float64, relative errors\n\n{'case':<28} {'loss':>8} {'gradient':>9}")
    all_equal = True
    for name, flags in CASES.items():
        expected = outcome(flags, IMAGES, torch.float64, device)
        loss_error, gradient_error = largest_error(Outcome(**outcomes[name]), expected)
        equal = max(loss_error, gradient_error) < TOLERANCE
        all_equal = all_equal and equal
        print(f"{name:<28} {loss_error:>8.0e} {gradient_error:>9.0e}  {'equal' if equal else 'DIFFERENT'}")
    print(f"\nSeveral processes {'compute' if all_equal else 'do not compute'} what one would.")
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
