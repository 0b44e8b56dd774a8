"""Self-supervised CIFAR-10 on one GPU, against the clock: python bench/speedrun.py --data_folder DIR [--trials 3]

DIR holds class folders `cifar10/train` and `cifar10/test`. What counts is defined in docs/speedrun.md. Without a GPU
everything is rehearsed in two minutes, on a few images with a tiny network.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from parts import rows_of
from step import link_images
from watched import GPU, machine

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (0.88, 0.90)
FIRST_EPOCHS = 3  # of the run that measures the speed; it is not counted
AUGMENTATION = ["--min_scale", "0.2", "--brightness", "0.4", "--contrast", "0.4", "--saturation", "0.2", "--hue", "0.1"]
AUGMENTATION += ["--gaussian_prob", "0", "--solarization_prob", "0.1"]
LARS = ["--batch_size", "256", "--optimizer", "sgd", "--lars", "--lars_eta", "0.02", "--lars_clip", "--lr", "0.3"]
LARS += ["--weight_decay", "1e-4", "--scheduler", "warmup_cosine", "--classifier_lr", "0.1"]
RECIPES = {
    "vicreg": [*LARS, *AUGMENTATION, "--hidden_mlp", "2048", "--encoding_dim", "2048"],
    "lejepa": [*LARS, *AUGMENTATION, "--hidden_mlp", "2048", "--encoding_dim", "128", "--sigreg_weight", "0.02"],
}


class Sizes(NamedTuple):
    """How much is run: on a GPU, or in a rehearsal."""

    images: int
    device: list[str]
    training: list[str]
    minutes: tuple[float, ...]


ON_GPU = Sizes(50_000, ["--gpus", "0"], ["--precision", "bf16-mixed", "--compile"], (2, 5, 10))
REHEARSAL = Sizes(512, ["--accelerator", "cpu", "--num_workers", "0"], ["--width", "4"], (0.2, 0.4))


class Trial(NamedTuple):
    seconds: float
    linear: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="holds cifar10/train and cifar10/test")
    parser.add_argument("--method", choices=RECIPES, default="vicreg")
    parser.add_argument("--minutes", type=float, nargs="+", help="budgets; by default 2 5 10")
    parser.add_argument("--trials", type=int, default=3 if GPU else 1, help="runs of each budget, with seeds 0, 1, ...")
    args, more = parser.parse_known_args()
    sizes = ON_GPU if GPU else REHEARSAL
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        flags = ["custom", "resnet18", "--crop_size", "32", *sizes.device]
        flags += ["--train_dir", str(link_images(args.data_folder / "cifar10/train", folder / "train", sizes.images))]
        flags += ["--val_dir", str((args.data_folder / "cifar10/test").resolve())]
        pretrain = [*flags, *sizes.training, "--method", args.method, *RECIPES[args.method], *more]
        print(f"torch {torch.__version__}, {machine()}, {args.method}: {' '.join(more) or 'the recipe as it is'}\n")
        start, per_epoch = speed(pretrain, folder)
        print("| budget | epochs | seconds | linear accuracy | trials |\n|---|---|---|---|---|", flush=True)
        means = [
            budget(60 * minutes, round_down((60 * minutes - start) / per_epoch), args.trials, flags, pretrain, folder)
            for minutes in args.minutes or sizes.minutes
        ]
    for target in TARGETS:
        reached = [mean.seconds for mean in means if mean.linear >= target]
        print(f"{target:.0%}: {f'after {min(reached):.0f} s' if reached else 'not reached'}")
    return 0


def speed(pretrain: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds before the first epoch is warm, and seconds of an epoch."""
    counted = train(pretrain, FIRST_EPOCHS, 0, folder, "speed")
    last = float(rows_of(folder / "trained_models/speed/timing.csv")[-1]["training_seconds"])
    return counted - FIRST_EPOCHS * last, last


def round_down(epochs: float) -> int:
    """At least one epoch; 2 % are left for epochs that take longer."""
    return max(1, int(0.98 * epochs))


def budget(
    seconds: float, epochs: int, trials: int, flags: Sequence[str], pretrain: Sequence[str], folder: Path
) -> Trial:
    """The mean of all trials, none of which may take longer than the budget."""
    done = [trial(flags, pretrain, epochs, seed, folder, f"{seconds:.0f}-{seed}") for seed in range(trials)]
    mean = Trial(max(each.seconds for each in done), statistics.mean(each.linear for each in done))
    deviation = f" +- {statistics.stdev(each.linear for each in done):.1%}" if trials > 1 else ""
    late = " (over the budget)" if mean.seconds > seconds else ""
    print(
        f"| {seconds:.0f} s | {epochs} | {mean.seconds:.1f}{late} | {mean.linear:.1%}{deviation} | {trials} |",
        flush=True,
    )
    return mean


def trial(flags: Sequence[str], pretrain: Sequence[str], epochs: int, seed: int, folder: Path, run_id: str) -> Trial:
    seconds = train(pretrain, epochs, seed, folder, run_id)
    backbone = ["--pretrained_feature_extractor", f"trained_models/{run_id}", "--protocol", "cached"]
    run("main_linear.py", [*flags, *backbone, "--run_id", f"{run_id}-linear"], folder)
    summary = json.loads((folder / f"trained_models/{run_id}-linear/summary.json").read_text())
    return Trial(seconds, summary["offline_linear/val_top1"])


def train(pretrain: Sequence[str], epochs: int, seed: int, folder: Path, run_id: str) -> float:
    """Seconds from the start of the command to the end of its last epoch, without those of evaluation."""
    began = time.time()
    more = ["--epochs", str(epochs), "--seed", str(seed), "--run_id", run_id, "--knn_every", str(epochs)]
    run("main_contrastive.py", [*pretrain, *more], folder)
    timing = folder / f"trained_models/{run_id}/timing.csv"
    evaluation = sum(float(row["seconds"]) - float(row["training_seconds"]) for row in rows_of(timing))
    return timing.stat().st_mtime - began - evaluation


def run(program: str, flags: Sequence[str], folder: Path) -> None:
    """In `folder`; ends this program with the last lines of one that fails."""
    log = folder / "log.txt"
    with log.open("w") as output:
        command = [sys.executable, str(ROOT / program), *flags]
        code = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        sys.exit(f"exit code {code}: {' '.join(command)}\n{log.read_text()[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
