"""Check every image of a folder or of shards once, so that runs need not: python -m cl.data.check FOLDER."""

import argparse
import os
import sys
from collections.abc import Sequence

from cl.cli import run
from cl.config.data import DataConfig
from cl.data.sources.manifest import manifest_path
from cl.data.sources.places import FOLDER, open_place, prefix_of
from cl.errors import UserError, one_line


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.data.check", description=__doc__)
    parser.add_argument("folder", help="class folders, a flat folder of images, or tar/GLOB of shards")
    parser.add_argument("--in_channels", type=int, default=3, help="as in main_contrastive.py [3]")
    args = parser.parse_args(argv)
    config = DataConfig("custom", in_channels=args.in_channels)
    is_folder = prefix_of(config, args.folder) == FOLDER
    if is_folder and not os.path.isdir(args.folder):
        raise UserError(f"FOLDER: got {args.folder}, expected a folder of images")
    place = open_place(args.folder, "FOLDER", config)
    bad = place.bad(trusted=False)
    for row, reason in bad.items():
        path = place.path(row)
        print(one_line(f"{os.path.relpath(path, place.root) if is_folder else path}: {reason}"))
    damaged = [one_line(each) for each in place.damaged()]
    for each in damaged:
        print(each)
    for note in place.left_out:
        print(one_line(note))
    count = sum(place.counts.values())
    results = manifest_path(place.root, config.in_channels)
    remembered = f"; the results are in {results}" if results is not None and results.exists() else ""
    print(one_line(f"{count - len(bad)} of {count} images are good{remembered}"))
    sys.exit(1 if bad or damaged else 0)


if __name__ == "__main__":
    run(main)
