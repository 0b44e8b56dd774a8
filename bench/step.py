"""Where the time of SimCLR's steps goes: python bench/step.py --data_folder DIR [--check].

DIR holds class folders `cifar10/train` and `clothing/train`. At 32 and 224 pixels, without and with --compile, for a
full-width ResNet-18: the network alone (the same batch again and again), the views alone, both in one loop, and
`main_contrastive.py` as users start it. Nothing waits for the device between two steps. The utilisation is that of the
backbone's forward and backward passes (three forward passes of two views) relative to the device's peak
(`--peak_tflops`, dense). Kernels and host reads are those of one step; on a CPU, the operations that it dispatches.

Every part is a process of its own, ended with all its children at its time limit, so that the bench takes two minutes
at most on a GPU. A CPU rehearses it with small batches. `--check` exits with 1 if a run at 32 pixels has fewer than
20,000 images/s, a target for GPUs of the H100 class.
"""

import argparse
import csv
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from step_shares import now, set_up
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from watched import DEVICE, GPU, limited, machine

from cl.batch import Batch
from cl.machine.cores import usable_cores
from cl.run.start.dry_run import Step, count_flops, endless

ROOT = Path(__file__).resolve().parents[1]
TARGET = 20_000  # images/s
WARM_UP = 3  # steps
EPOCH = 40 if GPU else 3  # batches
STEPS = 40 if GPU else 3
LIMIT = 28 if GPU else 120  # seconds for a part: four of them
COLUMNS = ("network", "views", "both", "run", "waiting", "kernels", "host reads")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="holds cifar10/train and clothing/train")
    parser.add_argument("--peak_tflops", type=float, help="peak of the device at this precision: 989 on an H100")
    parser.add_argument("--batch_size", type=int, nargs=2, default=(512, 256) if GPU else (16, 4), help="at 32, 224 px")
    parser.add_argument("--num_workers", type=int, default=max(1, min(14, usable_cores() - 2)))
    parser.add_argument("--check", action="store_true", help=f"exit with 1 below {TARGET} images/s at 32 pixels")
    parser.add_argument("--part", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # flags
    args = parser.parse_args()
    if args.part:
        print(json.dumps(in_process(args.part)))
        return 0
    print(f"torch {torch.__version__}, {machine()}\n")
    headings = ("pixels", "batch", "compile", *COLUMNS, "utilisation")
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}", flush=True)
    reached = False
    with tempfile.TemporaryDirectory() as folder:
        for size, batch, images in ((32, args.batch_size[0], "cifar10"), (224, args.batch_size[1], "clothing")):
            linked = link_images(args.data_folder / images / "train", Path(folder) / images, EPOCH * batch)
            flags = ["custom", "resnet18", "--train_dir", str(linked), "--crop_size", str(size)]
            flags += ["--batch_size", str(batch), "--num_workers", str(args.num_workers)]
            flags += ["--gaussian_prob", "0"] if size == 32 else []
            for compiled in ([], ["--compile"]):
                found = measured([*flags, *compiled], Path(folder))
                reached = reached or (size == 32 and found.get("run", 0) >= TARGET)
                print(row(size, batch, bool(compiled), found, args.peak_tflops), flush=True)
    if args.check and not reached:
        print(f"below target: {TARGET} images/s of a run at 32 pixels")
    return 1 if args.check and not reached else 0


def link_images(source: Path, folder: Path, images: int) -> Path:
    """Class folders with links to `images` of the images, evenly over all, or to all as often as needed."""
    files = [file for file in sorted(source.resolve().rglob("*")) if file.is_file()]
    stride = max(1, len(files) // images)
    for number in range(images):
        file = files[number * stride % len(files)]
        link = folder / file.parent.name / f"{number}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return folder


def measured(flags: list[str], folder: Path) -> dict[str, float]:
    """Images/s of each part, by column; a part that fails or reaches its limit is missing."""
    part = printed([sys.executable, __file__, "--data_folder", ".", "--part", *flags], folder)
    found: dict[str, float] = json.loads(part.splitlines()[-1]) if part else {}
    run = ["--epochs", "2" if GPU else "1", "--run_id", f"{len(os.listdir(folder))}", "--knn_every", "99"]
    if printed([sys.executable, str(ROOT / "main_contrastive.py"), *flags, *run], folder):
        with (folder / "trained_models" / run[3] / "timing.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        found |= {"run": float(last["images_per_second"]), "waiting": float(last["waiting_share"])}
    return found


def printed(command: list[str], folder: Path) -> str:
    """What the command printed; "" if it failed or was ended at its limit."""
    log = folder / "log"
    failure = limited(command, LIMIT, log, folder)
    if failure:
        print(f"{command[1]} {failure}", file=sys.stderr, flush=True)
    return "" if failure else log.read_text()


def in_process(flags: list[str]) -> dict[str, float]:
    data, step = set_up([*flags, "--epochs", "1"])
    side = data.settings.views[0][0].size
    flops = count_flops(step.module.backbone, torch.zeros(1, 3, side, side, device=DEVICE))
    batches = endless(data)
    first = next(batches)
    found: dict[str, float] = {"flops": flops}
    found["network"] = speed(lambda: step.launch(first), len(first.index))
    found["views"] = speed(lambda: next(batches), len(first.index))
    found["both"] = speed(lambda: step.launch(next(batches)), len(first.index))
    found |= counts(step, batches)
    data.teardown("fit")
    return found


def speed(work: Callable[[], object], images: int) -> float:
    """Images/s of `work`, launched without waiting in between."""
    for _ in range(WARM_UP):
        work()
    began = now()
    for _ in range(STEPS):
        work()
    return STEPS * images / (now() - began)


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def counts(step: Step, batches: Iterator[Batch]) -> dict[str, float]:
    """Kernels of a step with its views, and how often the host waits in it; on a CPU the dispatched operations."""

    def work() -> Tensor:
        return step.launch(next(batches))

    if not GPU:
        with Operations() as operations:
            work()
        return {"kernels": operations.count}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        now()
    kernels = sum(event.device_type == torch.profiler.DeviceType.CUDA for event in profile.events())
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as reads:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return {"kernels": kernels, "host reads": sum("synchroniz" in str(read.message) for read in reads)}


def row(size: int, batch: int, compiled: bool, found: dict[str, float], peak: float | None) -> str:
    cells = [f"{found.get(name, 0):.1%}" if name == "waiting" else f"{found[name]:,.0f}" if name in found else "-"
             for name in COLUMNS]  # fmt: skip
    speeds = [found[name] for name in ("run", "both", "network") if name in found]
    tflops = speeds[0] * 2 * 3 * found["flops"] / 1e12 if speeds and "flops" in found else 0.0
    utilisation = f"{tflops / peak:.1%}" if peak else f"({tflops:.2f} TFLOP/s)"
    return f"| {size} | {batch} | {'yes' if compiled else 'no'} | {' | '.join(cells)} | {utilisation} |"


if __name__ == "__main__":
    sys.exit(main())
