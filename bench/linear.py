"""Compare cached linear evaluation with the classic loop: python bench/linear.py --data_folder DIR [--check].

DIR holds class folders `cifar10/train` and `cifar10/test`. A full-width ResNet-18 is pretrained for ten steps. Then two
commands of main_linear are timed as a user would type them: a grid on cached features, from start to end, and five
epochs of the classic loop (augmented views, one learning rate and weight decay), of which only the training counts,
times twenty. The accuracy is compared with that of the same grid trained by torch, one point at a time, on features of
the images without augmentation.

Each head of the grid is also compared with torch's SGD after one epoch. If the learning rate is too high, training is
chaotic: after five epochs torch's own result changes by a tenth when the images of a batch are reordered, so no other
implementation can agree with it. Only heads for which torch agrees with itself to a tenth of the target are compared.
`--check` exits with 1 below a target.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from cl.cli import parse
from cl.config.optim import OptimConfig
from cl.config.programs import Linear
from cl.data.datamodule import ImageData
from cl.data.sampler import RankSlice, TrainSampler
from cl.data.settings import LoaderSettings
from cl.data.sources.registry import load
from cl.data.views.spec import linear_views
from cl.evaluation.features import Labelled, extract_features
from cl.evaluation.offline.feature_grid import HeadTraining, train_heads
from cl.evaluation.offline.label_split import split_held_out
from cl.nn.heads import linear_head
from cl.optim.schedules import Budget, Schedule
from cl.run.weights.load import load_pretrained

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 100  # length of the classic protocol
TIMED = 5  # epochs of the classic protocol that are timed
COMPARED = 1  # epochs before heads are compared
FASTER = 30.0  # target: at least this many times as fast as the classic protocol
BELOW = 0.3  # target: at most this many points below torch's grid
DIFFERENCE = 1e-5  # target: at most this relative difference between heads


def seconds_of(folder: Path, program: str, run_id: str, *flags: str) -> float:
    """Wall-clock seconds of a command on CIFAR-10."""
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / program), "cifar10", "resnet18", *flags, "--run_id", run_id]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def train_alone(
    images: Labelled, initial: nn.Linear, point: OptimConfig, training: HeadTraining, reverse: bool = False
) -> nn.Linear:
    """Train a copy of `initial` with torch on features [N, F]; `reverse` reverses the order within each batch."""
    head = nn.Linear(initial.in_features, initial.out_features, dtype=images.features.dtype)
    head.load_state_dict(initial.state_dict())
    sampler = TrainSampler(len(images.targets), training.batch, training.run.seed, RankSlice(0, 1))
    budget = Budget.of(training.run, training.batch, len(sampler))
    lr = point.scaled_lr(training.batch)
    optimizer = torch.optim.SGD(head.parameters(), lr, momentum=point.momentum, weight_decay=point.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Schedule.of(point, budget))
    for epoch in range(training.run.epochs):
        sampler.epoch = epoch
        for batch in sampler:
            index = [i for _, i in batch]
            if reverse:
                index.reverse()
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(images.features[index]), images.targets[index]).backward()
            optimizer.step()
            schedule.step()
    return head


def accuracy(head: nn.Linear, images: Labelled) -> float:
    with torch.no_grad():
        return float((head(images.features).argmax(dim=1) == images.targets).double().mean())


def accuracy_of_torch(
    train: Labelled, val: Labelled, initial: nn.Linear, grid: Sequence[OptimConfig], training: HeadTraining
) -> float:
    """Train each point alone, choose one on a held-out tenth, train it on all images, and return its accuracy."""
    fit, held = (
        Labelled(train.features[index], train.targets[index]) for index in split_held_out(train.targets.numpy())
    )
    accuracies = [accuracy(train_alone(fit, initial, point, training), held) for point in grid]
    best = grid[accuracies.index(max(accuracies))]
    return accuracy(train_alone(train, initial, best, training), val)


def differences(
    train: Labelled, initial: nn.Linear, grid: Sequence[OptimConfig], training: HeadTraining
) -> list[tuple[float, float]]:
    """Relative differences from torch's SGD at each point: of our grid, and of torch itself on reversed batches.

    All heads are trained in float64.
    """
    double = Labelled(train.features.double(), train.targets)
    heads = train_heads(Labelled(double.features[:, None], train.targets), initial, grid, training)
    results = []
    for point, ours in zip(grid, heads, strict=True):
        torchs = matrix(train_alone(double, initial, point, training))
        reordered = matrix(train_alone(double, initial, point, training, reverse=True))
        norm = torchs.norm()
        results.append((float((ours - torchs).norm() / norm), float((reordered - torchs).norm() / norm)))
    return results


def matrix(head: nn.Linear) -> torch.Tensor:
    """Weight and bias, [C, F + 1] with the bias as the last column."""
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach()


def features(config: Linear) -> tuple[Labelled, Labelled]:
    """Features of the training and validation images as evaluation sees them."""
    pretrained = load_pretrained(config)
    settings = LoaderSettings(config.data, linear_views(config.views), seed=0, rank_slice=RankSlice(0, 1))
    data = ImageData(load(config.data), settings)
    assert data.splits.val is not None
    cpu = torch.device("cpu")
    train = extract_features(pretrained.backbone, data.eval_loader(data.splits.train), cpu)
    val = extract_features(pretrained.backbone, data.eval_loader(data.splits.val), cpu)
    data.teardown("fit")
    return train, val


class Commands(NamedTuple):
    """What the timed commands of main_linear measured, and the config of the cached one with its features."""

    cached_seconds: float
    classic_epochs: list[float]  # seconds of training
    top1: float  # of the cached protocol
    config: Linear
    train: Labelled
    val: Labelled


def run_commands(folder: Path, images: list[str]) -> Commands:
    """Pretrain and evaluate in `folder`."""
    short = ["--max_steps", "10", "--batch_size", "128", "--knn_bank", "200", "--limit_eval", "200"]
    seconds_of(folder, "main_contrastive.py", "backbone", *images, *short)
    backbone = ["--pretrained_feature_extractor", str(folder / "trained_models/backbone")]
    cached = [*images, *backbone, "--protocol", "cached"]
    cached_seconds = seconds_of(folder, "main_linear.py", "cached", *cached)
    seconds_of(folder, "main_linear.py", "classic", *images, *backbone, "--lr", "0.1", "--epochs", str(TIMED))
    with (folder / "trained_models/classic/timing.csv").open() as file:
        classic_epochs = [float(row["training_seconds"]) for row in csv.DictReader(file)]
    top1 = json.loads((folder / "trained_models/cached/summary.json").read_text())["offline_linear/val_top1"]
    config = parse(Linear, ["cifar10", "resnet18", *cached]).config
    train, val = features(config)
    return Commands(cached_seconds, classic_epochs, top1=top1, config=config, train=train, val=val)


def rows_of(commands: Commands) -> list[tuple[str, str, str, str, str, bool]]:
    """The rows of the table; the last cell is whether the target is met."""
    config = commands.config
    grid = config.optim.grid
    torch.manual_seed(0)
    initial = linear_head(commands.train.features.shape[1], 10)
    training = HeadTraining(config.run, config.data.batch_size, flip_prob=0.0, fill=False)
    torch_top1 = accuracy_of_torch(commands.train, commands.val, initial, grid, training)
    short = replace(training, run=replace(config.run, epochs=COMPARED))
    relative = differences(commands.train, initial, grid, short)
    definite = [ours for ours, torchs in relative if torchs <= DIFFERENCE / 10]
    ours = commands.cached_seconds
    classic = EPOCHS * statistics.median(commands.classic_epochs)
    points = 100 * (commands.top1 - torch_top1)
    return [
        (f"{len(grid)} points, 100 epochs of one point", f"{ours:.0f} s", f"{classic:.0f} s",
         f"{classic / ours:.1f}x", f">= {FASTER:g}x", classic / ours >= FASTER),
        ("top-1, without augmentation one by one", f"{100 * commands.top1:.2f} %", f"{100 * torch_top1:.2f} %",
         f"{points:+.2f}", f">= -{BELOW:g}", points >= -BELOW),
        (f"largest difference of a head from torch's SGD, {len(definite)} of {len(grid)} points", "", "",
         f"{max(definite):.1e}", f"<= {DIFFERENCE:g}", max(definite) <= DIFFERENCE),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", required=True, help="holds cifar10/train and cifar10/test")
    parser.add_argument("--check", action="store_true", help="exit with 1 below a target")
    args = parser.parse_args()
    parent = Path(args.data_folder).resolve() / "cifar10"
    images = ["--data_folder", str(parent), "--train_dir", "train", "--val_dir", "test"]
    with tempfile.TemporaryDirectory() as folder:
        commands = run_commands(Path(folder), images)
    rows = rows_of(commands)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| | cached | classic | | target |\n|---|---|---|---|---|")
    for *cells, _ in rows:
        print("| " + " | ".join(cells) + " |")
    missed = [cells[0] for *cells, met in rows if not met]
    for row in missed:
        print(f"below target: {row}")
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
