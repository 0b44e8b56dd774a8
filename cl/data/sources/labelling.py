"""Places as a data set: checked, and labelled alike; bad images are skipped."""

import os
from collections.abc import Iterable, Mapping, Sequence

from cl.config.data import DataConfig
from cl.data.images import Splits
from cl.data.sources.places import Name, Place, open_place
from cl.data.views.norm import measure_norm
from cl.data.views.spec import Norm
from cl.errors import UserError, mentioning


def places(config: DataConfig, norm: Norm | None) -> Splits:
    """What --train_dir and --val_dir name. Images that do not decode are skipped."""
    paths = {"train_dir": config.train_dir, "val_dir": config.val_dir}
    found = {flag: open_place(path, f"--{flag}", config) for flag, path in paths.items() if path is not None}
    bad = {flag: place.bad(_is_trusted(config, flag)) for flag, place in found.items()}
    reasons = {found[flag].path(row): reason for flag, rows in bad.items() for row, reason in rows.items()}
    left_out = [note for place in found.values() for note in place.left_out]
    if reasons and config.bad_images == "error":
        raise _bad_images_refused(reasons)
    if reasons:
        file, reason = next(iter(reasons.items()))
        left_out.append(f"{len(reasons)} bad images are skipped, the first: {file} ({reason})")
    with mentioning(left_out):
        good = {flag: place.without(bad[flag]) for flag, place in found.items()}
        return _splits(config, norm, good, reasons, tuple(left_out))


def _is_trusted(config: DataConfig, flag: str) -> bool:
    """Each validation image counts once, so none is replaced."""
    return config.bad_images == "trust" and flag == "train_dir"


def _splits(
    config: DataConfig,
    norm: Norm | None,
    good: Mapping[str, Place],
    bad: Mapping[Name, str],
    left_out: tuple[str, ...],
) -> Splits:
    for flag, place in good.items():
        if not place.counts:
            raise UserError(f"--{flag}: got {place.typed}, expected readable images; none of its files can be decoded")
    train = good["train_dir"]
    val = good.get("val_dir")
    classes = class_names(train.counts)
    if val is not None:
        _check_labelled_alike(val, classes)
        _check_known(val, classes)
    label_of: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    label_of[None] = -1
    train_set = train.images(label_of)
    return Splits(
        train=train_set,
        val=val.images(label_of) if val is not None else None,
        classes=classes,
        norm=norm or measure_norm(train_set, trusted=config.bad_images == "trust"),
        notes=tuple(_class_notes(train, val, classes)) if val is not None else (),
        left_out=left_out,
        bad=bad,
    )


def _bad_images_refused(bad: Mapping[Name, str]) -> UserError:
    file, reason = next(iter(bad.items()))
    others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    return UserError(
        f"--bad_images: got error, but {file} is bad ({reason}){others}; expected only good images, or skip"
    )


def class_names(classes: Iterable[str | None]) -> tuple[str, ...]:
    """The classes in byte order, never natural order: label i is class i everywhere."""
    return tuple(sorted({name for name in classes if name is not None}, key=os.fsencode))


def _check_known(val: Place, classes: Sequence[str]) -> None:
    """Raise UserError for a class that the training images lack."""
    unknown = class_names(val.counts.keys() - {*classes})
    if unknown:
        raise UserError(
            f"--val_dir: got {val.typed} with class {_some(unknown)}, "
            f"expected only the {len(classes)} classes of the training images"
        )


def _some(names: Sequence[str]) -> str:
    """The first five, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _check_labelled_alike(val: Place, classes: Sequence[str]) -> None:
    """Raise UserError for validation images without labels beside labelled training images, or the reverse."""
    labelled = any(name is not None for name in val.counts)
    if classes and not labelled:
        raise UserError(
            f"--val_dir: got {val.typed}, a flat folder without labels, expected the class folders of --train_dir: "
            "without labels there is no accuracy; `python -m cl.data.imagenet_val` sorts ImageNet's validation images"
        )
    if labelled and not classes:
        raise UserError(
            f"--val_dir: got {val.typed} with labels, expected a flat folder without: the training images have none"
        )


def _class_notes(train: Place, val: Place, classes: Sequence[str]) -> list[str]:
    """Warnings about classes without validation images, and about classes of a single training image."""
    missing = [name for name in classes if name not in val.counts]
    notes = [f"no validation images of class {_some(missing)}"] if missing and any(val.counts) else []
    single = [name for name, count in train.counts.items() if count == 1 and name is not None]
    if single:
        notes.append(f"only one training image of class {_some(single)}")
    return notes
