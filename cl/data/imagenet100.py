"""Link the 100 classes of ImageNet-100 (CMC's list, arXiv 1906.05849) from an ImageNet folder.

python -m cl.data.imagenet100 /datasets/imagenet /datasets/imagenet-100
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cl.cli import run
from cl.errors import UserError

CLASSES = Path(__file__).with_name("imagenet100_classes.txt").read_text().split()
SPLITS = {"train": "train", "val": "test"}  # ImageNet's validation images are ImageNet-100's test images


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.data.imagenet100", description=__doc__)
    parser.add_argument("imagenet", type=Path, help="folder with train/ and val/, with one folder per class in each")
    parser.add_argument("out", type=Path, help="folder to create, with train/ and test/")
    args = parser.parse_args(argv)
    sources = [args.imagenet / split / name for split in SPLITS for name in CLASSES]
    missing = [folder for folder in sources if not folder.is_dir()]
    if missing:
        raise UserError(
            f"IMAGENET: got {args.imagenet}, expected class folders; {len(missing)} are missing: {missing[0]}; "
            "`python -m cl.data.imagenet_val` sorts flat validation images"
        )
    for split, out_split in SPLITS.items():
        (args.out / out_split).mkdir(parents=True, exist_ok=True)
        for name in CLASSES:
            link = args.out / out_split / name
            if not link.is_symlink():
                link.symlink_to((args.imagenet / split / name).resolve())
    print(f"{len(CLASSES)} classes linked into {args.out}/train and {args.out}/test")


if __name__ == "__main__":
    run(main)
