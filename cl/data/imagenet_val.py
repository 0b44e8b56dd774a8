"""Sort ImageNet's flat validation images into class folders, by links.

python -m cl.data.imagenet_val /datasets/ILSVRC/Data/CLS-LOC/val /datasets/LOC_val_solution.csv /datasets/imagenet/val
"""

import argparse
import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cl.cli import run
from cl.data.sources.listing import list_images
from cl.data.sources.walk import is_hidden
from cl.errors import UserError, one_line

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cl.data.imagenet_val", description=__doc__)
    parser.add_argument("val", type=Path, help="flat folder of the validation images")
    parser.add_argument("labels", type=Path, help=f"Kaggle's LOC_val_solution.csv, any CSV like it, or {DEVKIT}")
    parser.add_argument("out", type=Path, help="folder to create, with a folder for each class")
    args = parser.parse_args(argv)
    if not args.val.is_dir():
        raise UserError(f"VAL: got {args.val}, expected a folder of images")
    listing = list_images(args.val, "VAL")
    if any(listing.classes):
        raise UserError(f"VAL: got {args.val}, expected a flat folder; it has class folders already")
    class_of = _read_labels(args.labels, listing.files)
    missing = [name for name in listing.files if Path(name).stem not in class_of]
    if missing:
        raise UserError(
            f"LABELS: got {args.labels}, expected a class for each of the {len(listing.files)} images in {args.val}; "
            f"{len(missing)} have none: {missing[0]}"
        )
    odd = [wnid for wnid in class_of.values() if is_hidden(wnid) or Path(wnid).name != wnid]
    if odd:
        raise UserError(f"LABELS: got {args.labels}, expected classes that can name a folder; there is {odd[0]}")
    wanted = {args.out / class_of[Path(name).stem] / name: args.val / name for name in listing.files}
    try:
        links = [path for path in args.out.rglob("*") if path.is_symlink() or not path.is_dir()]
        others = [path for path in links if path not in wanted or path.resolve() != wanted[path].resolve()]
        if others or args.out.resolve() == args.val.resolve():
            raise UserError(f"OUT: got {args.out}, expected a new folder, or one with the links of this table alone")
        for link, image in wanted.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(image.resolve())
    except OSError as error:
        raise UserError(f"OUT: got {args.out}, where no links can be made ({error.strerror})") from None
    classes = len({class_of[Path(name).stem] for name in listing.files})
    print(one_line(f"{len(listing.files)} images linked into {classes} class folders of {args.out}"))


def _read_labels(labels: Path, files: Sequence[str]) -> Mapping[str, str]:
    """The class (n01440764, ...) of each file, by its name without suffix."""
    if labels.name == DEVKIT:
        return {Path(name).stem: wnid for name, wnid in zip(files, _devkit_labels(labels, len(files)), strict=True)}
    try:
        with labels.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if len(row) > 1]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"LABELS: got {labels}, which cannot be read as CSV ({error})") from None
    # Kaggle's second column is the class and the boxes: n01440764 1 2 3 4
    return {Path(row[0]).stem: row[1].split()[0] for row in rows if row[1].strip()}


def _devkit_labels(archive: Path, images: int) -> Sequence[str]:
    """The classes of all validation images in the order of their names, from the authors' archive."""
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    with tempfile.TemporaryDirectory() as folder:  # torchvision writes beside the archive
        (Path(folder) / DEVKIT).symlink_to(archive.resolve())
        try:
            parse_devkit_archive(folder)
        except (OSError, RuntimeError) as error:
            raise UserError(f"LABELS: got {archive}, expected the authors' archive ({error})") from None
        _, wnids = load_meta_file(folder)
    if len(wnids) != images:
        raise UserError(f"VAL: got {images} images, expected the {len(wnids)} that {archive} names")
    return wnids


if __name__ == "__main__":
    run(main)
