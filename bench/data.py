"""Compare views per CPU-second with other toolkits: python bench/data.py --data_folder DIR [--check].

DIR holds class folders `clothing/train` (JPEGs of about 400 x 533 pixels) and `cifar10/train` (32 x 32). Every row uses
one core: torch has one thread, times are CPU seconds of the whole process, medians of interleaved rounds. Other
toolkits make their own views with their own code from the same files. `--check` exits with 1 below a target.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from cl.data.cache import cached
from cl.data.executors.base import Executor
from cl.data.executors.dali import DaliExecutor
from cl.data.executors.resident import ResidentExecutor
from cl.data.executors.resident_images import load_into_memory
from cl.data.executors.workers import WorkerExecutor
from cl.data.images import ArraySet, FileSet, ImageSet
from cl.data.views.rows import RandomViews
from cl.data.views.spec import Norm, Views, ViewSpec

CPU = torch.device("cpu")
NORM: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
JITTER: dict[str, Any] = {
    "jitter_prob": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grey_prob": 0.2,
}  # fmt: skip
SMALL_SCALE = (0.05, 0.14)


class Case(NamedTuple):
    """The views to make of each image, by size: (number of views, size, scale of the crop)."""

    name: str
    folder: str
    images: int
    views: tuple[tuple[int, int, tuple[float, float]], ...]

    @property
    def count(self) -> int:
        return sum(number for number, _, _ in self.views)


CASES = [
    Case("2 x 32", "cifar10/train", 256, ((2, 32, (0.08, 1.0)),)),
    Case("2 x 224", "clothing/train", 48, ((2, 224, (0.08, 1.0)),)),
    Case("2 x 224 + 6 x 96", "clothing/train", 32, ((2, 224, (0.14, 1.0)), (6, 96, SMALL_SCALE))),
]


class Target(NamedTuple):
    """In this case, `row` must be `factor` times as fast as `peer`."""

    case: str
    row: str
    peer: str
    factor: float


BASE = "PIL + torchvision v1"
FAST = "cl fast, worker"
CACHE = "cl fast, worker, raw256"
FLOOR = "one decode per image"
TARGETS = [
    Target("2 x 32", "cl fast, everything", BASE, 6.5),
    Target("2 x 224", FAST, BASE, 7.0),
    Target("2 x 224", FAST, FLOOR, 0.4),
    Target("2 x 224", CACHE, BASE, 14.0),
    Target("2 x 224 + 6 x 96", FAST, BASE, 5.0),
]


def ours(case: Case) -> RandomViews:
    """SimCLR's views; blurred only at 96 pixels or more."""
    specs = [
        tuple(ViewSpec(size, scale, blur_prob=0.5 if size >= 96 else 0.0, **JITTER) for _ in range(number))
        for number, size, scale in case.views
    ]
    views: Views = tuple(specs)
    return RandomViews(views, seed=0)


def worker_part(executor: Executor, images: ImageSet) -> Callable[[], Any]:
    return lambda: executor.read([(0, i) for i in range(len(images))])


def everything(executor: Executor, images: ImageSet) -> Callable[[], Any]:
    return lambda: list(executor.batches([executor.read([(0, i) for i in range(len(images))])]))


def blur(image: Image.Image) -> Image.Image:
    """PIL's blur, as in toolkits built on torchvision v1."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def with_v1(size: int, scale: tuple[float, float]) -> Callable[[Image.Image], Tensor]:
    steps = [v1.RandomResizedCrop(size, scale, interpolation=v1.InterpolationMode.BILINEAR)]
    steps += [v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8), v1.RandomGrayscale(0.2)]
    steps += [v1.RandomApply([v1.Lambda(blur)], 0.5)] if size >= 96 else []
    return v1.Compose([*steps, v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(*NORM)])


def with_v2(size: int, scale: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    steps: list[Any] = [v2.RandomResizedCrop(size, scale, antialias=True), v2.ToDtype(torch.float32, scale=True)]
    steps += [v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8), v2.RandomGrayscale(0.2)]
    kernel = ViewSpec(size).blur_kernel
    steps += [v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], 0.5)] if size >= 96 else []
    return v2.Compose([*steps, v2.RandomHorizontalFlip(), v2.Normalize(*NORM)])


def with_lightly(size: int, scale: tuple[float, float]) -> Callable[[Image.Image], Tensor]:
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    return SimCLRViewTransform(size, min_scale=scale[0], gaussian_blur=0.5 if size >= 96 else 0.0)


def with_kornia(size: int, scale: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """Batched; all images must have the size of the views."""
    import kornia.augmentation as K

    kernel = ViewSpec(size).blur_kernel
    steps: list[Any] = [K.RandomResizedCrop((size, size), scale), K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)]
    steps += [K.RandomGrayscale(p=0.2)]
    steps += [K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5)] if size >= 96 else []
    mean, std = map(torch.tensor, NORM)
    return K.AugmentationSequential(*steps, K.RandomHorizontalFlip(), K.Normalize(mean, std))


def per_image(case: Case, paths: list[Path], read: Callable[[Path], Any], transform: Any) -> Callable[[], Any]:
    """Open each image once and make all views of it, as in solo-learn and lightly."""
    transforms = [transform(size, scale) for number, size, scale in case.views for _ in range(number)]
    return lambda: [[make_view(image) for make_view in transforms] for image in map(read, paths)]


def read_with_pil(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def rows_of(case: Case, root: Path, caches: str) -> dict[str, Callable[[], Any]]:
    """Functions that make all views of all images of a case once, by row name."""
    names = sorted(str(path.relative_to(root)) for path in root.glob("*/*.jpg"))
    names = names[:: max(1, len(names) // case.images)][: case.images]
    files = FileSet(root, names, np.zeros(len(names), np.int64), 3)
    paths = [root / name for name in names]
    planner = ours(case)
    encoded = [path.read_bytes() for path in paths]
    rows = {
        BASE: per_image(case, paths, read_with_pil, with_v1),
        "torchvision v2": per_image(case, paths, files_reader(files, names), with_v2),
        "lightly": per_image(case, paths, read_with_pil, with_lightly),
        "cl dali, everything": everything(DaliExecutor(files, planner, NORM, CPU, CPU, threads=1), files),
        FAST: worker_part(WorkerExecutor(files, planner, NORM, CPU), files),
        "cl fast, worker and device": everything(WorkerExecutor(files, planner, NORM, CPU), files),
        FLOOR: lambda: [simplejpeg.decode_jpeg(data) for data in encoded],
    }
    if case.folder.startswith("cifar10"):
        resident = load_into_memory(files)
        assert isinstance(resident, ArraySet)
        batch = resident.images.float() / 255
        (_, size, scale), *_ = case.views
        augment = with_kornia(size, scale)
        rows["kornia, batched"] = lambda: [augment(batch) for _ in range(case.count)]
        rows["cl fast, everything"] = everything(ResidentExecutor(resident, planner, NORM, CPU), resident)
    else:
        for kind in ("jpeg256", "raw256"):
            small = cached(files, kind, caches, workers=0)
            rows[f"{FAST}, {kind}"] = worker_part(WorkerExecutor(small, planner, NORM, CPU), small)
    return rows


def files_reader(files: FileSet, names: list[str]) -> Callable[[Path], Tensor]:
    index = {files.root / name: i for i, name in enumerate(names)}
    return lambda path: files.read(index[path])


def measure(rows: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each row; every round runs all rows."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for i in range(rounds + 1):
        for name, run in rows.items():
            began = time.process_time()
            run()
            if i > 0:  # the first round imports, builds and warms up
                times[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit with 1 below a target")
    args = parser.parse_args()
    torch.set_num_threads(1)
    speed: dict[tuple[str, str], float] = {}
    print(f"torch {torch.__version__}; views per CPU-second (for the decode: images times views)\n")
    print("| views | row | per CPU-second | x |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as caches:
        for case in CASES:
            seconds_of = measure(rows_of(case, args.data_folder / case.folder, caches), args.rounds)
            speed |= {(case.name, row): case.images * case.count / seconds for row, seconds in seconds_of.items()}
            for row in seconds_of:
                views = speed[case.name, row]
                print(f"| {case.name} | {row} | {views:.0f} | {views / speed[case.name, BASE]:.2f} |", flush=True)
    print("\n| views | row | peer | ratio | target |\n|---|---|---|---|---|")
    ratios = [(target, speed[target.case, target.row] / speed[target.case, target.peer]) for target in TARGETS]
    for target, ratio in ratios:
        print(f"| {target.case} | {target.row} | {target.peer} | {ratio:.2f} | >= {target.factor} |")
    missed = [target for target, ratio in ratios if ratio < target.factor]
    for target in missed:
        print(f"below target: {target}")
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
