"""Features and neighbours of any folder of images: python -m cl.embed RUN FOLDER --out features.npz."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cl.cli import run
from cl.config.data import DataConfig
from cl.config.run import DeviceConfig
from cl.config.views import ViewsConfig
from cl.data.datamodule import ImageData, LoaderSettings
from cl.data.images import ArraySet, FileSet, Splits
from cl.data.sampler import RankSlice
from cl.data.sources.listing import images_below
from cl.data.sources.manifest import bad_files
from cl.data.views.spec import linear_views
from cl.errors import UserError
from cl.evaluation.features import extract_features
from cl.evaluation.neighbours import nearest_neighbours
from cl.run.folder.atomic_files import write_atomically
from cl.run.folder.load import LoadedBackbone, load_backbone
from cl.run.start.devices import choose_devices


def main(argv: Sequence[str]) -> None:
    asked = _parser().parse_args(argv)
    feed = DataConfig("custom", batch_size=asked.batch_size, num_workers=asked.num_workers)
    _check(asked.folder, asked.out, asked.neighbours)
    device = choose_devices(DeviceConfig(accelerator=asked.accelerator)).device(0)
    backbone = load_backbone(asked.run, "RUN").to(device)
    files = sorted(images_below(asked.folder), key=os.fsencode)
    bad = bad_files(asked.folder, files)
    good = [name for name in files if name not in bad]
    if not good:
        raise UserError(f"FOLDER: got {asked.folder}, expected images that decode; none of its {len(files)} files does")
    images = FileSet(asked.folder, good, np.full(len(good), -1), backbone.card.in_channels)
    features = features_of_images(backbone, images, feed, device)
    cosine, neighbours = nearest_neighbours(features, asked.neighbours)
    found: dict[str, Any] = {
        "features": features.cpu().numpy(),  # [N, F] float32
        "paths": np.array(good),  # [N], relative to the folder
        "neighbours": neighbours.cpu().numpy(),  # [N, K] int64: rows of this file, the nearest first
        "cosine": cosine.cpu().numpy(),  # [N, K] float32
    }
    write_atomically(asked.out, lambda file: np.savez(file, **found))
    shape = f"features {len(good)} x {features.shape[1]}, paths, {neighbours.shape[1]} neighbours of each"
    first = f"; left out {len(bad)} of {len(files)} files: {next(iter(bad))} ({bad[next(iter(bad))]})" if bad else ""
    print(f"{asked.out}: {shape}{first}{', ...' * (len(bad) > 1)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cl.embed", description=__doc__)
    parser.add_argument("run", help="run folder, or a checkpoint or backbone.safetensors of one")
    parser.add_argument("folder", type=Path, help="images, flat or nested at will")
    parser.add_argument("--out", type=Path, required=True, help="file to write, for numpy.load")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time [256]")
    parser.add_argument("--num_workers", type=int, help="loader processes; by default a core is left free")
    parser.add_argument("--accelerator", choices=("auto", "gpu", "cpu"), default="auto", help="hardware [auto]")
    parser.add_argument("--neighbours", type=int, default=10, metavar="K", help="of each image [10]")
    return parser


def _check(folder: Path, out: Path, neighbours: int) -> None:
    """UserError before anything is computed that could not be written."""
    if not folder.is_dir():
        raise UserError(f"FOLDER: got {folder}, expected a folder of images")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"--out: got {out}, expected a file in a folder that can be written to")
    if neighbours < 0:
        raise UserError(f"--neighbours: got {neighbours}, expected at least 0")


def features_of_images(backbone: LoadedBackbone, images: FileSet, feed: DataConfig, device: torch.device) -> Tensor:
    """Features [N, F] of the evaluation views that the backbone's card describes."""
    card = backbone.card
    none = ArraySet(torch.zeros(feed.batch_size, 1, 1, 1, dtype=torch.uint8), np.full(feed.batch_size, -1))
    splits = Splits(none, images, (), (card.mean, card.std))  # nothing is trained on
    data = ImageData(
        splits, LoaderSettings(feed, linear_views(ViewsConfig(card.crop_size)), 0, RankSlice(0, 1), device)
    )
    batches = data.eval_loader(images)
    quiet = not sys.stderr.isatty()
    shown = tqdm(batches, "embedding", total=len(batches), unit="batch", disable=quiet, leave=False)
    features, _ = extract_features(backbone, shown, device)
    data.teardown("embed")
    return features


if __name__ == "__main__":
    run(main)
