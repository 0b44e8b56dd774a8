"""Link the 100 classes of ImageNet-100 (CMC's list, arXiv 1906.05849) from an ImageNet folder.

python -m cl.data.imagenet100 /datasets/imagenet /datasets/imagenet-100
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cl.cli import run
from cl.errors import UserError, one_line

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
    wanted = {args.out / SPLITS[split] / name: args.imagenet / split / name for split in SPLITS for name in CLASSES}
    try:
        found = [path for split in SPLITS.values() for path in (args.out / split).glob("*")]
        others = [path for path in found if path not in wanted or path.resolve() != wanted[path].resolve()]
        if others:
            raise UserError(
                f"OUT: got {args.out}, expected a new folder, or one with the links to {args.imagenet} alone; it has "
                f"{others[0].relative_to(args.out)}"
            )
        for link, folder in wanted.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(folder.resolve())
    except OSError as error:
        raise UserError(f"OUT: got {args.out}, where no links can be made ({error.strerror})") from None
    print(one_line(f"{len(CLASSES)} classes linked into {args.out}/train and {args.out}/test"))


if __name__ == "__main__":
    run(main)
