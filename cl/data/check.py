"""Check every image of a folder once, so that runs can skip the check: python -m cl.data.check FOLDER."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cl.cli import run
from cl.data.sources.listing import list_images
from cl.data.sources.manifest import bad_files, manifest_path
from cl.errors import UserError


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.data.check", description=__doc__)
    parser.add_argument("folder", type=Path, help="class folders, or a flat folder of images")
    folder = parser.parse_args(argv).folder
    if not folder.is_dir():
        raise UserError(f"FOLDER: got {folder}, expected a folder of images")
    files = list_images(folder, "FOLDER").files
    bad = bad_files(folder, files)
    for name, reason in bad.items():
        print(f"{name}: {reason}")
    print(f"{len(files) - len(bad)} of {len(files)} images are good; the results are in {manifest_path(folder)}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    run(main)
