"""Time SimCLR steps of a full-width ResNet-18, data included: python bench/step.py --data_folder DIR [--check].

DIR holds class folders `cifar10/train` and `clothing/train`. Measured at 32 and 224 pixels: images per second, the
fraction of time spent waiting for data, and model FLOP utilisation: the FLOPs of the backbone's forward and backward
passes (counted as three forward passes of two views) relative to the device's peak (`--peak_tflops`, dense, at
`--precision`). `--check` exits with 1 below 20,000 images/s at 32 pixels, a target for GPUs of the H100 class.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from step_shares import set_up
from watched import DEVICE, GPU, machine

from cl.run.start.dry_run import count_flops, endless

WARM_UP = 5
TARGET = 20_000


class Speed(NamedTuple):
    images_per_second: float
    waiting: float  # fraction of the time
    flops: int  # forward pass of one image through the backbone


def measure_speed(flags: list[str], steps: int) -> Speed:
    data, step = set_up(["custom", "resnet18", *flags])
    side = data.settings.views[0][0].size
    flops = count_flops(step.module.backbone, torch.zeros(1, 3, side, side, device=DEVICE))
    batches = endless(data)
    times = []
    waits = []
    for _ in range(WARM_UP + steps):
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        step(batch)
        times.append(time.perf_counter() - began)
    data.teardown("fit")
    times = times[WARM_UP:]
    waits = waits[WARM_UP:]
    return Speed(data.global_batch / statistics.median(times), sum(waits) / sum(times), flops)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="holds cifar10/train and clothing/train")
    parser.add_argument("--precision", default="bf16-mixed" if GPU else "32")
    parser.add_argument("--peak_tflops", type=float, help="peak of the device at this precision: 989 on an H100")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 below {TARGET} images/s at 32 pixels")
    args = parser.parse_args()
    flags = ["--precision", args.precision, "--batch_size", str(args.batch_size)]
    if args.compile:
        flags.append("--compile")
    print(f"torch {torch.__version__}, {machine()}, {args.precision}, batch {args.batch_size}\n")
    print("| pixels | images/s | waiting | model FLOP utilisation |\n|---|---|---|---|")
    speeds = {}
    for side, folder, view_flags in ((32, "cifar10", ["--gaussian_prob", "0"]), (224, "clothing", [])):
        images = ["--train_dir", str(args.data_folder.resolve() / folder / "train"), "--crop_size", str(side)]
        speed = measure_speed([*images, *flags, *view_flags], args.steps)
        speeds[side] = speed
        tflops = speed.images_per_second * 2 * 3 * speed.flops / 1e12
        utilisation = f"{tflops / args.peak_tflops:.1%}" if args.peak_tflops else f"({tflops:.2f} TFLOP/s)"
        print(f"| {side} | {speed.images_per_second:.0f} | {speed.waiting:.1%} | {utilisation} |", flush=True)
    missed = speeds[32].images_per_second < TARGET
    if missed:
        print(f"below target: {TARGET} images/s at 32 pixels")
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
