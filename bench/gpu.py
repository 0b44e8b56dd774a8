"""Everything that needs a GPU, with one command: python bench/gpu.py --data_folder DIR [--minutes 10] [--out FOLDER].

DIR holds class folders `cifar10/train`, `cifar10/test` and `clothing/train`. The parts run one after the other, the
most telling first: a step's network, views and both at 32 pixels, and whole runs as users start them; the tests that
need a GPU; ten epochs of SimCLR; 224 pixels resident, by workers, cache and DALI; losses; lightly's loop, in float32 as
in its examples, and in bf16 and channels last; a ViT-S. Each is a process that is ended at its own limit. FOLDER gets
report.md, report.json and logs while they run. What is not installed is skipped by name.

Without a GPU everything is rehearsed in three minutes, with tiny networks that are not compiled.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from parts import Figures, Part, heading, last_line, rows_of, run_parts
from step import EPOCH, link_images
from watched import GPU, machine

from cl.machine.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"


class Sizes(NamedTuple):
    """How much is measured: on a GPU, or in a rehearsal."""

    small: list[str]  # flags at 32 pixels
    large: list[str]  # at 224 pixels
    vit: list[str]
    batches: tuple[int, int, int]  # of `small`, `large` and `vit`
    epochs: int
    curve: int  # images
    losses: tuple[str, ...]  # batches
    lightly: tuple[str, ...]
    longest: float  # seconds for the tests, and for ten epochs


ON_GPU = Sizes(
    small=["resnet18", "--crop_size", "32", "--gaussian_prob", "0"],
    large=["resnet18", "--crop_size", "224"],
    vit=["timm/vit_small_patch16_224", "--crop_size", "224"],
    batches=(512, 256, 256),
    epochs=10,
    curve=50_000,
    losses=("512", "4096", "16384"),
    lightly=("--epochs", "2", "--batch_size", "512"),
    longest=150,
)
REHEARSAL = Sizes(
    small=["resnet18", "--width", "4", "--crop_size", "32", "--gaussian_prob", "0"],
    large=["resnet18", "--width", "4", "--crop_size", "64"],
    vit=["timm/vit_tiny_patch16_224", "--crop_size", "32"],
    batches=(16, 4, 4),
    epochs=10,
    curve=32,
    losses=("64",),
    lightly=("--fast_dev_run", "--width", "4", "--batch_size", "16", "--num_workers", "0"),
    longest=60,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="holds cifar10/ and clothing/")
    parser.add_argument("--minutes", type=float, default=10.0, help="no part runs longer than this after the start")
    parser.add_argument("--out", type=Path, default=Path("gpu_report"), help="folder of the report and the logs")
    parser.add_argument("--num_workers", type=int, default=max(1, min(14, usable_cores() - 2)) if GPU else 1)
    args = parser.parse_args()
    if not GPU:  # compiling takes a minute, and a C compiler
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    title = f"torch {torch.__version__}, {machine()}, at most {args.minutes:g} minutes"
    print(f"{title}\n\n{heading()}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parts = list(all_parts(args.data_folder.resolve(), folder, args.num_workers, ON_GPU if GPU else REHEARSAL))
        run_parts(parts, 60 * args.minutes, args.out, folder, title)
    print(f"\nthe report and the logs are in {args.out}")
    return 0


def all_parts(data: Path, folder: Path, workers: int, sizes: Sizes) -> Iterator[Part]:
    """In the order in which they are worth their time."""
    chosen = zip((sizes.small, sizes.large, sizes.vit), ("cifar10", "clothing", "clothing"), sizes.batches, strict=True)
    small, large, vit = (
        training_flags(flags, link_images(data / images / "train", folder / f"images-{number}", EPOCH * batch), batch)
        for number, (flags, images, batch) in enumerate(chosen)
    )
    read = ["--num_workers", str(workers)]
    yield step("32 px: step", [*small, *read], 40)
    yield run("32 px: as users start it", [*small, *read, "--epochs", "3"], 40, folder)
    yield step("32 px, --compile: step", [*small, *read, "--compile"], 60, ("triton",))
    yield run("32 px, --compile: as users start it", [*small, *read, "--compile", "--epochs", "3"], 70, folder,
              ("triton",))  # fmt: skip
    yield step("32 px, --graphs off: step", [*small, *read, "--graphs", "off"], 40)
    yield tests(sizes.longest)
    yield curve(data, folder, sizes)
    resident = [*large, *read, "--resident", "on" if GPU else "auto"]
    large += [*read, "--resident", "off"]
    yield step("224 px, resident: step", resident, 50)
    yield run("224 px, resident", [*resident, "--epochs", "2"], 60, folder)
    yield step("224 px, workers: step", large, 50)
    yield run("224 px, workers", [*large, "--epochs", "2"], 60, folder)
    yield run("224 px, cache", [*large, "--cache", "raw256", "--epochs", "2"], 60, folder)
    yield run("224 px, DALI", [*large, "--loader", "dali", "--epochs", "2"], 60, folder, ("nvidia.dali",))
    losses = [sys.executable, str(BENCH / "losses.py"), "--on_device", *sizes.losses]
    yield Part("losses, ms and MiB", losses, 40, last_line)
    yield lightly("lightly's loop", data, folder, sizes, 50)
    yield lightly("lightly's loop, bf16 and channels last", data, folder, sizes, 50, "--bf16")
    yield step("ViT-S: step", [*vit, *read], 50)


def training_flags(flags: list[str], images: Path, batch: int) -> list[str]:
    return ["custom", *flags, "--train_dir", str(images), "--batch_size", str(batch)]


def step(name: str, flags: list[str], limit: float, needs: tuple[str, ...] = ()) -> Part:
    """The network, the views, and both, without a trainer."""
    command = [sys.executable, str(BENCH / "step.py"), "--data_folder", ".", "--part", *flags]
    return Part(name, command, limit, last_line, needs)


def run(name: str, flags: list[str], limit: float, folder: Path, needs: tuple[str, ...] = ()) -> Part:
    run_id = "".join(character if character.isalnum() else "-" for character in name).strip("-")
    flags = [*flags, "--run_id", run_id, "--knn_every", "99"]
    return Part(name, [sys.executable, str(ROOT / "main_contrastive.py"), *flags], limit, timed(folder, run_id), needs)


def timed(folder: Path, run_id: str) -> Callable[[Path], Figures]:
    """The speed of the last epoch; earlier ones warm up."""

    def figures(log: Path) -> Figures:
        last = rows_of(folder / "trained_models" / run_id / "timing.csv")[-1]
        return {"images/s": float(last["images_per_second"]), "waiting": f"{float(last['waiting_share']):.1%}"}

    return figures


def curve(data: Path, folder: Path, sizes: Sizes) -> Part:
    """Ten epochs of SimCLR: it learns, not only fast."""
    images = link_images(data / "cifar10" / "train", folder / "curve", sizes.curve)
    flags = [*training_flags(sizes.small, images, sizes.batches[0]), "--epochs", str(sizes.epochs), "--run_id", "curve"]
    test = data / "cifar10" / "test"
    flags += ["--val_dir", str(test), "--limit_eval", "2000"] if test.is_dir() else []

    def figures(log: Path) -> Figures:
        rows = rows_of(folder / "trained_models" / "curve" / "metrics.csv")
        speeds = [float(row["images_per_second"]) for row in rows_of(folder / "trained_models/curve/timing.csv")]
        found: dict[str, float | str] = {"images/s": statistics.median(speeds)}
        for column in ("loss", "online_linear/val_top1", "knn/val_top1"):
            values = [float(row[column]) for row in rows if row.get(column)]
            if values:
                found[column] = " ".join(f"{value:.3f}" for value in values)
        return found

    command = [sys.executable, str(ROOT / "main_contrastive.py"), *flags]
    return Part("SimCLR, ten epochs", command, sizes.longest, figures)


def tests(limit: float) -> Part:
    """In one process, and without the plugins that pyproject.toml asks for."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--rootdir", str(ROOT), str(ROOT / "tests" / "test_gpu.py")]
    return Part("pytest -m gpu", command, limit, lambda log: {"": log.read_text().splitlines()[-1]}, ("pytest",))


def lightly(name: str, data: Path, folder: Path, sizes: Sizes, limit: float, *flags: str) -> Part:
    out = folder / name.replace(" ", "-")
    images = link_images(data / "cifar10" / "train", folder / f"{out.name}-images", EPOCH * sizes.batches[0])
    command = [sys.executable, str(BENCH / "lightly_loop.py"), "simclr", "--train_dir", str(images), "--out", str(out)]
    command += [*sizes.lightly, *flags]

    def figures(log: Path) -> Figures:
        return {"images/s": max(json.loads((out / "speed.json").read_text()))}

    return Part(name, command, limit, figures, ("lightly",))


if __name__ == "__main__":
    sys.exit(main())
