"""Shards beside the folder that they were made of: images per second, and the index of 10^6 images.

python bench/shards.py PHOTOGRAPHS            a folder of class folders, such as the clothing photographs
python bench/shards.py PHOTOGRAPHS --members 1000000
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.scale import jpeg
from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.sampler import RankSlice
from cl.data.settings import pretrain_settings
from cl.data.shard.__main__ import main as write_shards
from cl.data.sources.registry import load

REPEATS = 5  # of each way, in turn
PER_SHARD = 10_000
FLAGS = ["--num_workers", "0", "--batch_size", "64", "--crop_size", "112", "--bad_images", "trust"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="class folders")
    parser.add_argument("--members", type=int, default=0, help="images of the index that is measured [none]")
    parser.add_argument("--start", help="measure one start on this --train_dir and print it as JSON")
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(args.start)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        throughput(args.photographs, Path(folder))
        if args.members:
            index(Path(folder), args.members)


def throughput(photographs: Path, folder: Path) -> None:
    write_shards([str(photographs), f"{folder}/shards", "--size", "16MB"])
    data = {name: loaded(path) for name, path in (("folder", photographs), ("shards", f"tar/{folder}/shards/*.tar"))}
    rates: dict[str, list[float]] = {name: [] for name in data}
    for _ in range(REPEATS):
        for name, images in data.items():
            rates[name].append(images_per_second(images))
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    print("| images from | images per CPU second, median | lowest to highest |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {medians[name]:.1f} | {min(rate):.1f} to {max(rate):.1f} |")
    print(f"\nshards at {100 * medians['shards'] / medians['folder']:.1f} % of the folder", flush=True)


def loaded(train_dir: "str | Path") -> ImageData:
    config = parse(Pretrain, ["custom", "resnet18", "--train_dir", str(train_dir), *FLAGS]).config
    return ImageData(load(config.data), pretrain_settings(config, RankSlice(0, 1), torch.device("cpu")))


def images_per_second(data: ImageData) -> float:
    """Reading, decoding and cropping, in this process; of its CPU time, since other programs may use the machine."""
    reads = data.train_dataloader()._reads
    began = time.process_time()
    count = sum(len(batch.index) for batch in reads)
    return count / (time.process_time() - began)


def index(folder: Path, members: int) -> None:
    """Time the first index and a start from it, each in a process of its own."""
    content = jpeg()
    source = folder / "source"
    for number in range(PER_SHARD):
        of_class = source / f"n{number % 100:02d}"
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / f"{number:06d}.jpg").write_bytes(content)
    write_shards([str(source), f"{folder}/one", "--size", "1GB"])
    many = folder / "many"
    many.mkdir()
    for number in range(members // PER_SHARD):
        shutil.copy(folder / "one/shard-000000.tar", many / f"{number:06d}.tar")
    print("| images | start | seconds | CPU seconds |\n|---|---|---|---|")
    for kind in ("first", "from the index", "from the index"):
        found = measured(f"tar/{many}/*.tar")
        print(f"| {found['images']:,} | {kind} | {found['seconds']:.2f} | {found['cpu']:.2f} |", flush=True)


def measured(train_dir: str) -> dict[str, Any]:
    command = [sys.executable, __file__, ".", "--start", train_dir]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def start(train_dir: str) -> dict[str, Any]:
    """What a run does with the shards before it has images; mean and std are typed."""
    norm = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"]
    config = parse(Pretrain, ["custom", "resnet18", "--train_dir", train_dir, *FLAGS, *norm]).config
    wall = time.perf_counter()
    cpu = cpu_seconds()
    images = len(load(config.data).train)
    return {"images": images, "seconds": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}


def cpu_seconds() -> float:
    """Of this process and of those that it has started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
