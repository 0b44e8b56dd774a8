"""Compare this toolkit with lightly on the same images: python bench/compare.py --data_folder DIR [--quick] [--check].

DIR holds class folders `cifar10/train` and `cifar10/test`. Both toolkits train the same backbone on the same images,
with equally strong augmentations and the same optimizer (SimCLR and SupCon: that of lightly's CIFAR-10 benchmark; the
others: AdamW, because with SGD they end below random initialisation in so few epochs). Heads, temperature, schedule and
data pipeline are each toolkit's own. Every backbone is evaluated by the same command of main_linear after the last
epoch. Each finished run appends a row to OUT/compare.csv: after an interruption the same command resumes there, and
rows of unchanged code stay. The table shows all rows with this width, number of epochs and batch size.

Times are those of the whole command; ours also validates, checks for collapse, and draws pictures. Shares of a step are
measured with the first seed, in one process without workers, so that all work is part of the step. `--check` exits with
1 below a target; `--quick` trains one step, so it checks only that the runs end, and the shares.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightly_loop
import lightly_methods
import step_shares
import torch
from compare_rows import PIXELS, RANDOM, Row, check, row_of, summaries_of, table_of
from step_shares import UNKNOWN, Shares
from torch import Tensor
from watched import Took, machine, watched

import main_linear
from cl.backbones.backbone import Backbone
from cl.cli import parse
from cl.config.programs import Linear
from cl.data.datamodule import ImageData
from cl.data.sampler import RankSlice
from cl.data.settings import LoaderSettings
from cl.data.sources.registry import load
from cl.data.views.spec import linear_views
from cl.evaluation.offline.cached_protocol import evaluate_cached
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.optim.schedules import Budget
from cl.run.folder.run_folder import source_commit
from cl.run.folder.tables import Table

ROOT = Path(__file__).resolve().parents[1]
STRENGTH = [
    "--brightness", "0.4", "--contrast", "0.4", "--saturation", "0.4", "--hue", "0.1", "--min_scale", "0.08",
    "--gaussian_prob", "0", "--solarization_prob", "0", "--no_asymmetric_augmentations",
]  # fmt: skip
METHODS = [*lightly_methods.METHODS, "supcon"]  # lightly has no SupCon
SGD = ["--lr", "0.12", "--weight_decay", "5e-4"]  # rates are per 256 images; same as in lightly_loop
ADAMW = ["--optimizer", "adamw", "--lr", "2e-3", "--weight_decay", "1e-4"]
TEACHER = [f"--teacher_momentum{end}={lightly_methods.TEACHER_MOMENTUM}" for end in ("", "_end")]
FLAGS = {
    **dict.fromkeys(METHODS, ADAMW),
    "simclr": SGD,
    "supcon": SGD,
    "byol": [*ADAMW, *TEACHER],
    "moco_v2": [*ADAMW, *TEACHER],
    "dino": [*ADAMW, *TEACHER, "--head_batch_norm", "--freeze_last_layer_epochs", "0"],  # as in lightly's benchmark
    "nnclr": [*ADAMW, "--queue_size", str(lightly_methods.QUEUE)],
    "swav": [*ADAMW, "--freeze_prototypes_epochs", "0"],  # the preset's 2 of 1000 would be 2 of 5
    "vicreg": [*ADAMW, "--no_zero_init_residual"],
}


class Sweep(NamedTuple):
    """The runs to compare: their size, their images, and the folder that they are written to."""

    images: Path
    out: Path
    width: int
    epochs: int
    batch_size: int
    num_workers: int  # for lightly's loader
    first_seed: int
    commit: str
    quick: bool

    @property
    def data(self) -> list[str]:
        folders = ["--data_folder", str(self.images), "--train_dir", "train", "--val_dir", "test"]
        return ["cifar10", "resnet18", *folders]

    @property
    def size(self) -> list[str]:
        return f"--width {self.width} --epochs {self.epochs} --batch_size {self.batch_size}".split()

    @property
    def steps(self) -> int:
        """Number of steps whose shares are measured."""
        return 2 if self.quick else 10

    @property
    def short(self) -> list[str]:
        return ["--fast_dev_run"] if self.quick else []

    def rows(self, chosen: Iterable[tuple[str, str, int]]) -> list[Row]:
        """Run those of `chosen` that compare.csv does not have yet; return all its rows with this budget."""
        self.out.mkdir(parents=True, exist_ok=True)
        table = Table(self.out / "compare.csv")
        budget = self.width, self.epochs, self.batch_size
        for method, toolkit, seed in chosen:
            done = [(row.method, row.toolkit, row.seed) for row in map(row_of, table.rows) if row.budget == budget]
            if (method, toolkit, seed) not in done:
                print(f"{toolkit} {method}, seed {seed}".strip(), flush=True)
                table.append(
                    asdict(Row(method, toolkit, seed, *budget, self.commit, **self.run(method, toolkit, seed)))
                )
        return [row for row in map(row_of, table.rows) if row.budget == budget]

    def run(self, method: str, toolkit: str, seed: int) -> dict[str, float]:
        """Train and evaluate; return the measured columns of a row."""
        if method == PIXELS:
            return self.pixels()
        folder = self.out / f"{toolkit} {method} {seed}".strip().replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted sweep
        if method == RANDOM:
            return self.untrained(seed, folder)
        return {"cl": self.cl, "lightly": self.lightly}[toolkit](method, seed, folder)

    def cl(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        flags = [*self.data, "--method", method, *STRENGTH, *FLAGS[method], *self.size, "--seed", str(seed)]
        output = ["--output_dir", str(self.out), "--run_id", folder.name]
        took = watched(str(ROOT / "main_contrastive.py"), *flags, *output, *self.short)
        speed = json.loads((folder / "summary.json").read_text())["images_per_second"]
        shares = step_shares.ours(flags, self.steps) if seed == self.first_seed else UNKNOWN
        return costs(took, speed, shares) | self.evaluate(folder)

    def lightly(self, method: str, seed: int, folder: Path) -> dict[str, float]:
        images = self.images / "train"
        flags = ["--train_dir", str(images), "--out", str(folder), *self.size, "--seed", str(seed), *self.short]
        flags += ["--num_workers", str(self.num_workers)]
        took = watched(str(ROOT / "bench/lightly_loop.py"), method, *flags)
        speed = statistics.median(json.loads((folder / "speed.json").read_text()))
        sizes = self.width, self.batch_size, self.steps
        shares = step_shares.lightlys(method, images, *sizes) if seed == self.first_seed else UNKNOWN
        return costs(took, speed, shares) | self.evaluate(folder / "backbone.pth")

    def untrained(self, seed: int, folder: Path) -> dict[str, float]:
        """Evaluate the initial backbone of both toolkits."""
        torch.manual_seed(seed)
        folder.mkdir(parents=True)
        torch.save(lightly_loop.backbone_of(self.width).state_dict(), folder / "backbone.pth")
        return self.evaluate(folder / "backbone.pth")

    def evaluate(self, weights: Path) -> dict[str, float]:
        folder = self.out / "linear"
        shutil.rmtree(folder, ignore_errors=True)
        flags = ["--protocol", "cached", "--pretrained_feature_extractor", str(weights), "--run_id", folder.name]
        flags += ["--fast_dev_run", "--lr", "0.1", "--weight_decay", "0"] if self.quick else []
        with redirect_stdout(StringIO()):
            main_linear.main([*self.data, *flags, "--output_dir", str(self.out)])
        return accuracies(json.loads((folder / "summary.json").read_text()))

    def pixels(self) -> dict[str, float]:
        """Evaluate a backbone that returns its input."""
        config = parse(Linear, [*self.data, "--protocol", "cached", "--pretrained_feature_extractor", "none"]).config
        settings = LoaderSettings(config.data, linear_views(config.views), seed=0, rank_slice=RankSlice(0, 1))
        data = ImageData(load(config.data), settings)
        budget = Budget.of(config.run, data.global_batch, data.steps_per_epoch)
        linear = LinearEvaluation(Pixels(), 10, config, budget)
        with redirect_stdout(StringIO()):
            return accuracies(evaluate_cached(linear, data, config).row)


class Pixels(Backbone):
    """Images [B, 3, 32, 32] -> [B, 3072]."""

    num_features = 3 * 32 * 32

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def accuracies(row: dict[str, float]) -> dict[str, float]:
    return {"linear": row["offline_linear/val_top1"], "knn": row["knn_k200_t0.1/val_top1"]}


def costs(took: Took, images_per_second: float, shares: Shares) -> dict[str, float]:
    return {
        "seconds": took.seconds,
        "cpu_seconds": took.cpu_seconds,
        "images_per_second": images_per_second,
        "data_share": shares.data,
        "loss_share": shares.loss,
        "peak_mib": took.peak_mib,
    }


def plan(methods: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """Method, toolkit and seed of each run: seed by seed, the toolkits alternating."""
    for seed in seeds:
        for method in methods:
            yield method, "cl", seed
            if method in lightly_methods.METHODS:
                yield method, "lightly", seed
        yield RANDOM, "", seed
    yield PIXELS, "", 0


def copy_subset(images: Path, out: Path) -> Path:
    """Copy the first sixty images of each class, enough for four batches, to `out`."""
    for class_folder in images.glob("*/*"):
        folder = out / class_folder.relative_to(images)
        folder.mkdir(parents=True)
        for file in sorted(class_folder.iterdir())[:60]:
            shutil.copy(file, folder)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="holds cifar10/train and cifar10/test")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="for compare.csv and the runs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=16, help="64 is the standard ResNet-18, 16 a quarter of that")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_workers", type=int, default=2, help="for lightly's loader; ours needs none here")
    parser.add_argument("--quick", action="store_true", help="SimCLR, one seed, one step, few images, in OUT/quick")
    parser.add_argument("--check", action="store_true", help="exit with 1 below a target")
    args = parser.parse_args()
    images = args.data_folder.resolve() / "cifar10"
    out = args.out.resolve()
    chosen = list(plan(args.methods, args.seeds))
    if args.quick:
        shutil.rmtree(out / "quick", ignore_errors=True)
        out = out / "quick"
        chosen = [("simclr", "cl", 0), ("simclr", "lightly", 0)]
        images = copy_subset(images, out / "cifar10")
    sweep = Sweep(
        images,
        out,
        width=args.width,
        epochs=args.epochs,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        first_seed=args.seeds[0],
        commit=source_commit() or "",
        quick=args.quick,
    )
    rows = sweep.rows(chosen)
    test_images = sum(1 for _ in (images / "test").glob("*/*"))
    summaries = summaries_of(rows, test_images)
    size = f"ResNet-18, width {args.width}, {args.epochs} epochs, batch {args.batch_size}"
    print(f"\n{size}, torch {torch.__version__}, {machine()}\n\n{table_of(summaries)}\n")
    met = check(summaries, args.quick)
    return 1 if args.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
