"""Check that several processes compute what one would: python -m cl.selfcheck [--accelerator gpu]; exit code 0 or 1.

Takes three optimizer steps with every method. Compares losses, gradients, and at the end weights and all other state:
two processes under DDP, each with half of each batch, against one process with the whole batches.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl.machine.home import replace_missing_folders

if __name__ == "__main__":
    replace_missing_folders()  # first: Lightning imports matplotlib, which looks for its folder

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cl.batch import Batch
from cl.cli import parse, run
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.data.sampler import RankSlice
from cl.distributed import connect, disconnect, global_mean, rank, world_size
from cl.errors import UserError
from cl.machine.started_as import argument_parser
from cl.methods import ContrastiveModule, build_method
from cl.nn.batch_norm import synchronized
from cl.optim.schedules import Budget
from cl.run.start.processes import rank_environments, wait_for

TOLERANCE = 1e-10  # relative, in float64
ZERO = 1e-13  # of the norm of all gradients: rounding in float64
IMAGES = 12
CLASSES = 4
PROCESSES = 2
STEPS = 3  # state such as a teacher or a queue acts from the second on
SMALL = ["--proj_hidden_dim", "16", "--crop_size", "8", "--small_crop_size", "6", "--gaussian_prob", "0"]
TINY = [*SMALL, "--width", "4", "--no_zero_init_residual"]  # a gradient of zero cannot be compared
VIT = "timm/test_vit"
# Which paths are dropped depends on the process. Adam takes full steps along gradients that are 0 but for rounding, as
# that of the bias of attention's keys.
TINY_VIT = [*SMALL, "--patch_size", "2", "--drop_path", "0", "--optimizer", "sgd", "--lr", "0.1"]
CASES: dict[str, list[str]] = {name: ["--method", name] for name in METHODS}
CASES |= {f"{name}, 2 + 6 crops": [*flags, "--multicrop"] for name, flags in CASES.items()}
CASES |= {f"{name}, ViT": [VIT, "--method", name] for name in ("simclr", "moco_v3", "dino")}
CASES |= {
    f"{name}, {case}": ["--method", name, *flags]
    for name, config in METHODS.items()
    for case, flags in config.selfcheck_cases.items()
}


class Outcome(NamedTuple):
    losses: Tensor  # [STEPS] of the global batch
    gradients: dict[str, Tensor]  # of the first step
    state: dict[str, Tensor]  # weights and buffers after the last step; a teacher's and a queue's too


def whole_batch(images: int, small: int, dtype: torch.dtype, step: int = 0) -> Batch:
    """Random views of 8 pixels and `small` views of 6; the first third of the images has no label."""
    generator = torch.Generator().manual_seed(step)
    shapes = [(2, images, 3, 8, 8)]
    if small:
        shapes.append((small, images, 3, 6, 6))
    views = tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    index = torch.arange(images)
    return Batch(index, views, torch.where(index < images // 3, -1, index % CLASSES))


def share_of(batch: Batch, parts: int) -> Batch:
    """What this process sees of a global batch of so many parts."""
    rows = RankSlice(rank(), world_size()).positions(len(batch.index), parts)
    return Batch(batch.index[rows], tuple(views[:, rows] for views in batch.views), batch.target[rows])


class _Step(nn.Module):
    """A method's training step as a forward pass, because DDP wraps forward passes only."""

    def __init__(self, module: ContrastiveModule[Any]) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return self.module.training_step(batch, 0)


def outcome(flags: list[str], images: int, dtype: torch.dtype, device: torch.device, sync: bool = True) -> Outcome:
    """Three optimizer steps on whole batches, computed by all processes together; `flags` may begin with `VIT`."""
    network = [*flags[:1], *TINY_VIT, *flags[1:]] if flags[:1] == [VIT] else ["resnet18", *TINY, *flags]
    config = parse(Pretrain, ["custom", *network[:1], "--proj_output_dim", "8", *network[1:]]).config
    torch.manual_seed(0)
    module = build_method(config, CLASSES, Budget(images, STEPS, STEPS)).to(device, dtype)
    module.make_up_targets()
    wrapped: nn.Module = _Step(module)
    if world_size() > 1:
        if sync:
            wrapped = synchronized(wrapped, "gpu" if device.type == "cuda" else "cpu")
        wrapped = DistributedDataParallel(wrapped)
    optimizer = module.configure_optimizers()["optimizer"]
    small = config.views.n_small_crops if config.views.multicrop else 0
    losses = []
    gradients: dict[str, Tensor] = {}
    for step in range(STEPS):
        loss = wrapped(share_of(whole_batch(images, small, dtype, step), config.batches_per_loss).to(device))
        optimizer.zero_grad()
        loss.backward()
        losses.append(global_mean(loss.detach()).cpu())
        module.prepare_gradients(optimizer)
        gradients = gradients or _gradients(module)
        optimizer.step()
        module.after_step(torch.ones((), dtype=torch.float64, device=device))
        module.step_index += 1
    state = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    return Outcome(torch.stack(losses), gradients, state)


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.detach().cpu().clone() for name, p in module.named_parameters() if p.grad is not None}


class Errors(NamedTuple):
    """The largest relative errors.

    Of a state, tensors that should be 0 have a norm of 1e-3 here. A gradient that is 0 but for rounding, as that of a
    bias before a batch norm, is compared with all gradients.
    """

    loss: float
    gradient: float
    state: float


def largest_errors(actual: Outcome, expected: Outcome) -> Errors:
    """How far the outcome of several processes is from that of one."""
    sizes = _norms(expected.state)
    return Errors(
        loss=float(((actual.losses - expected.losses).abs() / expected.losses.abs()).max()),
        gradient=_largest_error(actual.gradients, expected.gradients, _gradient_norms(expected.gradients)),
        state=_largest_error(actual.state, expected.state, norms={k: max(norm, 1e-3) for k, norm in sizes.items()}),
    )


def _largest_error(actual: dict[str, Tensor], expected: dict[str, Tensor], norms: dict[str, float]) -> float:
    assert actual.keys() == expected.keys()
    differences = {name: actual[name].double() - tensor.double() for name, tensor in expected.items()}
    return max((norm / norms[name] for name, norm in _norms(differences).items()), default=0.0)


def _gradient_norms(gradients: dict[str, Tensor]) -> dict[str, float]:
    norms = _norms(gradients)
    whole = max(math.hypot(*norms.values()), 1e-30)
    return {name: norm if norm > ZERO * whole else whole for name, norm in norms.items()}


def _norms(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(tensor.double().norm()) for name, tensor in tensors.items()}


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


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise UserError(f"TMPDIR: expected a folder that can be written to ({error.strerror})") from None


def main(argv: Sequence[str]) -> int:
    parser = argument_parser("selfcheck", (__doc__ or "").split("\n")[0])
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("--accelerator: got gpu, but torch finds no GPU on this machine")
    if args.part is not None:
        _run_rank(args.part, args.accelerator)
        return 0
    with _temporary_folder() as folder:
        command = [sys.executable, "-m", "cl.selfcheck", "--accelerator", args.accelerator, "--part", folder]
        code = wait_for([subprocess.Popen(command, env=environment) for environment in rank_environments(PROCESSES)])
        if code:
            return 1
        outcomes = torch.load(Path(folder) / "outcomes.pt", weights_only=True)
    device = torch.device("cuda" if args.accelerator == "gpu" else "cpu")
    print(f"{PROCESSES} processes against one, {STEPS} optimizer steps, float64, relative errors\n")
    print(f"{'case':<28} {'loss':>8} {'gradient':>9} {'state':>8}")
    all_equal = True
    for name, flags in CASES.items():
        expected = outcome(flags, IMAGES, torch.float64, device)
        errors = largest_errors(Outcome(**outcomes[name]), expected)
        equal = max(errors) < TOLERANCE
        all_equal = all_equal and equal
        cells = f"{errors.loss:>8.0e} {errors.gradient:>9.0e} {errors.state:>8.0e}"
        print(f"{name:<28} {cells}  {'equal' if equal else 'DIFFERENT'}")
    print(f"\nSeveral processes {'compute' if all_equal else 'do not compute'} what one would.")
    return 0 if all_equal else 1


if __name__ == "__main__":
    run(lambda argv: sys.exit(main(argv)))
