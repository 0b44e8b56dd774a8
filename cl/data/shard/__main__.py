"""Write images as tar shards: python -m cl.data.shard FOLDER OUT. The same command goes on after a kill."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cl.cli import run
from cl.config.data import DataConfig
from cl.data.shard.writer import write_shards
from cl.data.sources.labelling import class_names
from cl.data.sources.places import FOLDER, open_place, prefix_of
from cl.errors import UserError, one_line

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.data.shard", description=__doc__)
    parser.add_argument("folder", help="class folders, a flat folder of images, or tar/GLOB of other shards")
    parser.add_argument("out", type=Path, help="folder of the shards, which is made")
    parser.add_argument("--size", default="512MB", help="of a shard, at most, unless an image is larger [512MB]")
    parser.add_argument("--labels", help="CSV file of file names and labels, for a flat folder")
    parser.add_argument("--label_column", help="field of KEY.json that has the label, for shards")
    parser.add_argument("--in_channels", type=int, default=3, help="as in main_contrastive.py [3]")
    args = parser.parse_args(argv)
    size = bytes_of(args.size)
    config = DataConfig(
        "custom", in_channels=args.in_channels, labels=args.labels, label_column=args.label_column, bad_images="trust"
    )
    if prefix_of(config, args.folder) == FOLDER and not os.path.isdir(args.folder):
        raise UserError(f"FOLDER: got {args.folder}, expected a folder of images")
    place = open_place(args.folder, "FOLDER", config)
    unreadable = place.bad(trusted=True)
    for row, reason in unreadable.items():
        print(one_line(f"left out: {place.path(row)}: {reason}"))
    for note in place.left_out:
        print(one_line(note))
    place = place.without(unreadable)
    classes = class_names(place.counts)
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    label_of[None] = -1
    images = place.images(label_of)
    shards = write_shards(images, classes, args.out, size)
    print(one_line(f"{len(images)} images in {shards} shards: --train_dir 'tar/{args.out}/*.tar'"))


def bytes_of(text: str) -> int:
    """512MB -> 512,000,000."""
    match = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text)
    if match is None or match[2].upper() not in UNITS or int(match[1]) == 0:
        raise UserError(f"--size: got {text}, expected a number of bytes above 0, such as 512MB or 1GiB")
    return int(match[1]) * UNITS[match[2].upper()]


if __name__ == "__main__":
    run(main)
