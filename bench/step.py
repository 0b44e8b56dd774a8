"""A SimCLR step of a full-width ResNet-18, data and all: python bench/step.py --data_folder DIR [--check].

DIR holds class folders `cifar10/train` and `clothing/train`. At 32 and 224 pixels: images per second from batch to
batch, the share of that spent waiting for data, and the model FLOP utilisation: what forward and backward passes of the
backbone come to (three forward passes' worth of two views) beside what the device promises (`--peak_tflops`, dense, at
`--precision`). `--check` exits 1 where a step at 32 pixels has fewer than 20,000 images/s, a target for GPUs of the
class of an H100.
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

from cl.run.start.dry_run import endless, flops_of

WARM_UP = 5
TARGET = 20_000


class Speed(NamedTuple):
    images_per_second: float
    waiting: float  # share of the time
    flops: int  # of one image through the backbone, forward


def speed_of(flags: list[str], steps: int) -> Speed:
    data, step = set_up(["custom", "resnet18", *flags])
    side = data.settings.views[0][0].size
    flops = flops_of(step.module.backbone, torch.zeros(1, 3, side, side, device=DEVICE))
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
    whole = sum(times[WARM_UP:])
    waited = sum(waits[WARM_UP:])
    return Speed(data.global_batch / statistics.median(times[WARM_UP:]), waited / whole, flops)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="holds cifar10/train and clothing/train")
    parser.add_argument("--precision", default="bf16-mixed" if GPU else "32")
    parser.add_argument("--peak_tflops", type=float, help="what the device promises at this precision: 989 on an H100")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 below {TARGET} images/s at 32 pixels")
    asked = parser.parse_args()
    flags = ["--precision", asked.precision, "--batch_size", str(asked.batch_size), *["--compile"] * asked.compile]
    print(f"torch {torch.__version__}, {machine()}, {asked.precision}, batch {asked.batch_size}\n")
    print("| pixels | images/s | waiting | model FLOP utilisation |\n|---|---|---|---|")
    found = {}
    for side, folder in ((32, "cifar10"), (224, "clothing")):
        where = ["--train_dir", str(asked.data_folder.resolve() / folder / "train"), "--crop_size", str(side)]
        speed = found[side] = speed_of([*where, *flags, *["--gaussian_prob", "0"] * (side == 32)], asked.steps)
        used = speed.images_per_second * 2 * 3 * speed.flops
        rank_slice = f"{used / (asked.peak_tflops * 1e12):.1%}" if asked.peak_tflops else f"({used / 1e12:.2f} TFLOP/s)"
        print(f"| {side} | {speed.images_per_second:.0f} | {speed.waiting:.1%} | {rank_slice} |", flush=True)
    missed = found[32].images_per_second < TARGET
    if missed:
        print(f"below target: {TARGET} images/s at 32 pixels")
    return 1 if asked.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
