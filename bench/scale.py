"""How a start grows with the number of files: time and memory up to the first batch, with 10^4 to 10^6 small JPEGs.

10^9 images are an index of sparse files, all of whose names lead to one image.

python bench/scale.py [FOLDER] [--files 10000 100000 1000000]
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.images import FileSet, Splits
from cl.data.sampler import RankSlice
from cl.data.settings import pretrain_settings
from cl.data.sources.index import open_index
from cl.data.sources.registry import IMAGENET, load
from cl.run.start.devices import choose_devices
from cl.run.start.plan import make_plan

CLASSES = 1000
SIDE = 136  # pixels: smaller images of one size would be read into memory
SIMULATED = 10**9
FLAGS = ["--num_workers", "0", "--batch_size", "256", "--crop_size", "32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where the files are made and left [a temporary folder]")
    parser.add_argument("--files", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="multiples of 1000")
    parser.add_argument("--start", choices=("files", "index"), help="measure one start and print it as JSON")
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(args.start, args.folder)))
    elif args.folder is not None:
        table(args.folder, args.files)
    else:
        with tempfile.TemporaryDirectory() as folder:
            table(Path(folder), args.files)


def table(folder: Path, counts: list[int]) -> None:
    print("| images | start | seconds | CPU seconds | memory above the imports | index |\n|---|---|---|---|---|---|")
    for count in counts:
        files = folder / f"files-{count}"
        make_files(files, count)
        for kind in ("first", "remembered"):
            print_row(count, kind, measured(folder, "files", files))
    for labels in (False, True):
        index = folder / f"index-{SIMULATED}-{labels}"
        simulate_index(index, labels)
        print_row(
            SIMULATED, f"from the index, {'with' if labels else 'without'} labels", measured(folder, "index", index)
        )


def print_row(count: int, kind: str, found: dict[str, Any]) -> None:
    numbers = f"{found['seconds']:.2f} | {found['cpu']:.2f} | {found['memory'] / 2**20:.0f} MiB"
    print(f"| {count:,} | {kind} | {numbers} | {found['index'] / 2**20:.0f} MiB |", flush=True)


def make_files(folder: Path, count: int) -> None:
    """`count` JPEGs in a thousand class folders."""
    if folder.exists():
        return
    content = jpeg()
    for number in range(CLASSES):
        of_class = folder / f"n{number:08d}"
        of_class.mkdir(parents=True)
        for i in range(count // CLASSES):
            (of_class / f"{of_class.name}_{i}.JPEG").write_bytes(content)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (9, 200, 30)).save(file, "JPEG")
    return file.getvalue()


def simulate_index(folder: Path, labels: bool) -> None:
    """An index of 10^9 images whose names are all "", which below an image file is that file."""
    folder.mkdir(exist_ok=True)
    (folder / "image.jpg").write_bytes(jpeg())
    np.save(folder / "text.npy", np.zeros(1, np.uint8))
    sparse(folder / "ends.npy", np.int64)
    if labels:
        sparse(folder / "targets.npy", np.int16)


def sparse(path: Path, kind: type) -> None:
    np.lib.format.open_memmap(path, "w+", kind, (SIMULATED,)).flush()


def measured(folder: Path, kind: str, what: Path) -> dict[str, Any]:
    """One start in a process of its own."""
    command = [sys.executable, __file__, str(what), "--start", kind]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def start(kind: str, folder: Path) -> dict[str, Any]:
    """What a run does with its images before the first step: list, check, plan, bank, first batch."""
    config = parse(Pretrain, ["imagenet", "resnet18", "--train_dir", str(folder), *FLAGS]).config
    before = peak_memory()
    wall = time.perf_counter()
    cpu = time.process_time()
    splits = load(config.data) if kind == "files" else from_index(folder)
    data = ImageData(splits, pretrain_settings(config, RankSlice(0, 1), torch.device("cpu")))
    make_plan("scale", config, data, choose_devices(config.device))
    data.bank_loader(config.online.knn_bank)
    next(iter(data.train_dataloader()))
    assert isinstance(splits.train, FileSet)
    files = splits.train.index.glob("*.npy") if splits.train.index is not None else ()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak_memory() - before,
        "index": sum(file.stat().st_size for file in files),
    }


def from_index(folder: Path) -> Splits:
    index = open_index(folder)
    images = FileSet(folder / "image.jpg", index.names, index.targets, 3, index.folder)
    classes = tuple(map(str, range(CLASSES))) if (folder / "targets.npy").exists() else ()
    return Splits(images, None, classes, IMAGENET)


def peak_memory() -> int:
    """Of this process, in bytes; mapped pages that were read count."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
