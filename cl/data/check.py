"""Check every image of a folder once, so that runs can skip the check: python -m cl.data.check FOLDER."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cl.cli import run
from cl.config.data import DataConfig
from cl.data.sources.listing import list_images
from cl.data.sources.manifest import bad_files, manifest_path
from cl.errors import UserError, one_line


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.data.check", description=__doc__)
    parser.add_argument("folder", type=Path, help="class folders, or a flat folder of images")
    parser.add_argument("--in_channels", type=int, default=3, help="as in main_contrastive.py [3]")
    args = parser.parse_args(argv)
    channels = DataConfig("custom", in_channels=args.in_channels).in_channels
    folder = args.folder
    if not folder.is_dir():
        raise UserError(f"FOLDER: got {folder}, expected a folder of images")
    listing = list_images(folder, "FOLDER", channels=channels)
    files = listing.files
    bad = bad_files(folder, files, channels)
    for name, reason in bad.items():
        print(one_line(f"{name}: {reason}"))
    for note in listing.left_out:
        print(one_line(note))
    results = manifest_path(folder, channels)
    remembered = f"; the results are in {results}" if results is not None and results.exists() else ""
    print(f"{len(files) - len(bad)} of {len(files)} images are good{remembered}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    run(main)
