"""Compute features and nearest neighbours of a folder of images: python -m cl.embed RUN FOLDER --out features.npz."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from cl.machine.home import is_writable, replace_missing_folders

if __name__ == "__main__":
    replace_missing_folders()  # first: Lightning imports matplotlib, which looks for its folder

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cl.backbones.card import Card
from cl.cli import run
from cl.config.data import COLOURS, DataConfig
from cl.config.flags import as_typed, convert, fields_of, typed_path
from cl.config.run import DeviceConfig
from cl.config.views import Size, ViewsConfig, in_pixels
from cl.data.datamodule import evaluation_only
from cl.data.images import EncodedSet, FileSet
from cl.data.sampler import RankSlice
from cl.data.settings import LoaderSettings
from cl.data.sources.listing import unlistable
from cl.data.sources.manifest import bad_files
from cl.data.sources.places import FOLDER, open_place, prefix_of
from cl.data.sources.walk import left_out, walk
from cl.data.views.spec import linear_views
from cl.errors import UserError, mentioning, one_line
from cl.evaluation.features import extract_features
from cl.evaluation.neighbours import nearest_neighbours
from cl.machine.started_as import argument_parser
from cl.run.folder.atomic_files import write_atomically
from cl.run.start.devices import choose_devices, limit_threads
from cl.run.weights.load import LoadedBackbone, load_backbone


def main(argv: Sequence[str]) -> None:
    args = _parser().parse_args(argv)
    data = DataConfig("custom", batch_size=args.batch_size, num_workers=args.num_workers)
    if prefix_of(data, args.folder) == FOLDER and not os.path.isdir(args.folder):
        raise UserError(f"FOLDER: got {args.folder}, expected a folder of images")
    _check(args.out, args.neighbours)
    limit_threads()
    device = choose_devices(DeviceConfig(accelerator=args.accelerator)).device(0)
    crop_size = _size(args.crop_size) if args.crop_size else None
    backbone = load_backbone(
        args.run, "RUN", args.weights_key, encoder=args.encoder, mean=args.mean, std=args.std, crop_size=crop_size
    ).to(device)
    found = _open(args.folder, replace(data, in_channels=backbone.card.in_channels))
    bad = found.bad
    images = found.images
    features = features_of_images(backbone, images, data, device)
    cosine, neighbours = nearest_neighbours(features, args.neighbours)
    arrays: dict[str, Any] = {
        "features": features.cpu().numpy(),  # [N, F] float32
        "paths": np.array(found.names),  # [N], relative to the folder
        "neighbours": neighbours.cpu().numpy(),  # [N, K] int64: rows of this file, nearest first
        "cosine": cosine.cpu().numpy(),  # [N, K] float32
    }
    write_atomically(args.out, lambda file: np.savez(file, **arrays))
    contents = f"features {len(images)} x {features.shape[1]}, paths, {neighbours.shape[1]} neighbours of each"
    print(one_line(f"{args.out}: {contents}{_skipped(bad, len(images) + len(bad))}"))
    if args.encoder or args.mean or args.crop_size:
        print(one_line(_described(backbone.card)))
    for note in found.notes:
        print(one_line(note))


class _Found(NamedTuple):
    """The images of the argument FOLDER."""

    images: EncodedSet  # those that decode
    names: Sequence[str]
    bad: Mapping[str, str]  # names of the others, and the reason
    notes: Sequence[str]


def _open(folder: str, config: DataConfig) -> _Found:
    if prefix_of(config, folder) != FOLDER:
        place = open_place(folder, "FOLDER", config)
        reasons = place.bad(trusted=False)
        bad = {str(place.path(row)): reason for row, reason in reasons.items()}
        _refuse_nothing(folder, sum(place.counts.values()), bad, place.left_out)
        images = place.without(reasons).images(dict.fromkeys(place.counts, -1))
        return _Found(images, [str(images.path(i)) for i in range(len(images))], bad, place.left_out)
    files, notes = _list(Path(folder), config.in_channels)
    bad = bad_files(Path(folder), files, config.in_channels)
    _refuse_nothing(folder, len(files), bad, notes)
    good = [name for name in files if name not in bad]
    return _Found(FileSet(Path(folder), good, np.full(len(good), -1), config.in_channels), good, bad, notes)


def _refuse_nothing(folder: str, count: int, bad: Mapping[str, str], notes: Sequence[str]) -> None:
    if len(bad) == count:
        with mentioning([*list(bad.values())[:1], *notes]):
            raise UserError(f"FOLDER: got {folder}, expected images; none of its {count} images decodes")


def _size(words: list[str]) -> Size:
    """A size as the flag of the programs would take it."""
    return cast(Size, convert(next(field for field in fields_of(ViewsConfig) if field.name == "crop_size"), words))


def _described(card: Card) -> str:
    """What was done to each image, where no card of a run says it."""
    norm = f"mean {as_typed(card.mean)}, std {as_typed(card.std)} ({card.norm_origin})"
    return f"{norm}; the central {in_pixels(card.crop_size)} of {in_pixels(card.resize)}, {card.interpolation}"


def _list(folder: Path, channels: int = COLOURS) -> tuple[list[str], list[str]]:
    """The images at any depth below `folder`, in byte order, and notes about what was left out."""
    try:
        found = walk(folder, channels=channels)
    except OSError as error:
        raise unlistable(f"FOLDER: got {folder}", error) from None
    return sorted(found.images, key=os.fsencode), left_out(folder, found)


def _skipped(bad: Mapping[str, str], files: int) -> str:
    """A clause about the files that were skipped, with the first one's reason; "" if there are none."""
    if not bad:
        return ""
    name, reason = next(iter(bad.items()))
    more = ", ..." if len(bad) > 1 else ""
    return f"; skipped {len(bad)} of {files} files: {name} ({reason}){more}"


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser("embed", __doc__ or "")
    parser.add_argument("run", help="run folder, or a checkpoint or backbone.safetensors in one")
    parser.add_argument("folder", help="images, in any arrangement of subfolders; or tar/GLOB of shards")
    parser.add_argument("--out", type=typed_path, required=True, help="file to write; numpy.load reads it")
    parser.add_argument("--weights_key", metavar="KEY", help="which network of the checkpoint: teacher")
    parser.add_argument("--encoder", help="the network of a file of another toolkit: timm/NAME, resnet18 or resnet50")
    parser.add_argument("--mean", type=float, nargs="+", help="of each channel, for pixels from 0 to 1 [as known]")
    parser.add_argument("--std", type=float, nargs="+", help="standard deviation of each channel [as known]")
    parser.add_argument("--crop_size", nargs="+", metavar="INT", help="side of a view in pixels [as known, else 224]")
    parser.add_argument("--batch_size", type=int, default=256, help="images per batch [256]")
    parser.add_argument("--num_workers", type=int, help="loader processes; by default one core is left free")
    parser.add_argument("--accelerator", choices=("auto", "gpu", "cpu"), default="auto", help="hardware [auto]")
    parser.add_argument("--neighbours", type=int, default=10, metavar="K", help="neighbours per image [10]")
    return parser


def _check(out: Path, neighbours: int) -> None:
    """Raise UserError before anything is computed that could not be saved."""
    if out.is_dir() or not out.parent.is_dir() or not is_writable(out.parent):
        raise UserError(f"--out: got {out}, expected a file in a folder that can be written to")
    if neighbours < 0:
        raise UserError(f"--neighbours: got {neighbours}, expected at least 0")


def features_of_images(
    backbone: LoadedBackbone, images: EncodedSet, config: DataConfig, device: torch.device
) -> Tensor:
    """Features [N, F] of the evaluation views that the backbone's card describes."""
    card = backbone.card
    views = linear_views(ViewsConfig(card.crop_size))
    settings = LoaderSettings(config, views, seed=0, rank_slice=RankSlice(0, 1), device=device, evaluated=card.view)
    data = evaluation_only(images, (card.mean, card.std), settings)
    batches = data.eval_loader(images)
    hidden = not sys.stderr.isatty()
    progress = tqdm(batches, "embedding", total=len(batches), unit="batch", disable=hidden, leave=False)
    features, _ = extract_features(backbone, progress, device, images.path)
    data.teardown("embed")
    return features


if __name__ == "__main__":
    run(main)
