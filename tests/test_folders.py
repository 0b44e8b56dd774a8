"""Image folders: classes come from the training images; labels and validation images may be missing."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cl.config.data import DataConfig
from cl.data.images import ArraySet, stratified
from cl.data.sources.listing import list_images
from cl.data.sources.registry import load
from cl.data.views.norm import measure_norm
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.pictures import plain, write_classes

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
SMALL = ["custom", "resnet18", *TINY, "--crop_size", "32", "--batch_size", "16", "--num_workers", "0"]
SHORT = [*SMALL, "--epochs", "1"]


@pytest.fixture
def data(folder: Path) -> Path:
    write_classes(folder / "data/train", {"10": 8, "9": 8, "ant": 8})
    write_classes(folder / "data/val", {"10": 4, "9": 4, "ant": 4})
    return folder / "data"


def custom(**flags: object) -> DataConfig:
    return DataConfig(dataset="custom", data_folder="data", train_dir="train", **flags)  # type: ignore[arg-type]


def test_classes_are_in_lexical_order_and_validation_uses_the_training_labels(data: Path) -> None:
    splits = load(custom(val_dir="val"))
    assert splits.classes == ("10", "9", "ant")
    assert splits.val is not None
    assert np.bincount(splits.train.targets).tolist() == [8, 8, 8]
    assert splits.val.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.notes == ()


def test_the_order_in_which_the_file_system_lists_files_does_not_matter(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list_images(data / "train", "--train_dir")
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext(sorted(scandir(path), key=hash)))
    assert list_images(data / "train", "--train_dir") == before


def test_permuted_validation_folders_keep_the_training_labels(data: Path) -> None:
    shutil.rmtree(data / "val")
    write_classes(data / "val", {"ant": 2, "10": 3, "9": 1})  # created in a different order, with different counts
    splits = load(custom(val_dir="val"))
    assert splits.val is not None
    assert splits.val.targets.tolist() == [0] * 3 + [1] + [2] * 2


def test_an_extra_validation_class_is_an_error(data: Path) -> None:
    write_classes(data / "val", {"bee": 1})
    with pytest.raises(UserError, match="--val_dir: got data/val with class bee, expected only the 3 classes"):
        load(custom(val_dir="val"))


def test_a_renamed_validation_class_is_an_error(data: Path, run: Run) -> None:
    (data / "val/ant").rename(data / "val/bee")
    with pytest.raises(UserError, match="--val_dir: got data/val with class bee, expected only the 3 classes"):
        load(custom(val_dir="val"))
    code, out, err = run(PRETRAIN, *SHORT, "--data_folder", "data", "--train_dir", "train", "--val_dir", "val")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_missing_validation_class_is_a_warning_and_shifts_no_label(data: Path) -> None:
    shutil.rmtree(data / "val/9")
    splits = load(custom(val_dir="val"))
    assert splits.val is not None
    assert splits.val.targets.tolist() == [0] * 4 + [2] * 4
    assert splits.notes == ("no validation images of class 9",)


def test_an_empty_class_folder_is_skipped_with_a_warning(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / "5").mkdir()
    splits = load(custom(val_dir="val"))
    assert splits.classes == ("10", "9", "ant")
    assert splits.left_out == tuple(f"data/{split}: the class folder 5 has no images" for split in ("train", "val"))


def test_a_class_with_one_image_is_a_warning(data: Path) -> None:
    (data / "train/zebra").mkdir()
    plain(1).save(data / "train/zebra/only.png")
    splits = load(custom(val_dir="val"))
    assert "only one training image of class zebra" in splits.notes
    assert "no validation images of class zebra" in splits.notes


def test_a_note_names_five_classes_and_counts_the_others(folder: Path) -> None:
    write_classes(folder / "data/train", {f"{number:02d}": 1 for number in range(30)})
    write_classes(folder / "data/val", {"00": 1})
    train, val = "data/train", "data/val"
    assert load(DataConfig("custom", train_dir=train, val_dir=val)).notes == (
        "no validation images of class 01, 02, 03, 04, 05 and 24 more",
        "only one training image of class 00, 01, 02, 03, 04 and 25 more",
    )
    with pytest.raises(UserError, match="with class 01, 02, 03, 04, 05 and 24 more, expected only the 1 classes"):
        load(DataConfig("custom", train_dir=val, val_dir=train))


def test_nested_folders_belong_to_their_top_folder_and_links_are_followed(data: Path) -> None:
    (data / "train/ant/deep/deeper").mkdir(parents=True)
    plain(1).save(data / "train/ant/deep/deeper/one.png")
    os.symlink(data / "val/9", data / "train/9/more")
    splits = load(custom())
    assert np.bincount(splits.train.targets).tolist() == [8, 12, 9]


def test_a_cyclic_link_is_not_followed(data: Path) -> None:
    before = load(custom()).train.targets.tolist()
    os.symlink(data / "train", data / "train/ant/up")
    os.symlink("../9", data / "train/10/other")  # two links to each other's folders
    os.symlink("../10", data / "train/9/other")
    assert len(load(custom()).train) == len(before) + 8 + 8


def test_images_outside_class_folders_are_skipped_with_a_warning(data: Path) -> None:
    plain(1).save(data / "train/stray.png")
    assert load(custom()).left_out == ("data/train: 1 images outside the class folders are skipped",)


def test_a_flat_folder_takes_labels_from_a_file(data: Path) -> None:
    flat = data / "flat"
    write_classes(data, {"flat": 6})
    rows = ["file,label", "000.jpg,7", "001.jpg,0", "002.jpg,-1", "003.jpg,7", "004.jpg,"]
    (data / "labels.csv").write_text("\n".join(rows))
    splits = load(DataConfig(dataset="custom", data_folder="data", train_dir="flat", labels="labels.csv"))
    assert splits.classes == ("0", "7")  # labels with gaps
    assert splits.train.targets.tolist() == [1, 0, -1, 1, -1, -1]
    assert "has no row for 1 images" in splits.left_out[0]
    assert splits.labelled().train.targets.tolist() == [1, 0, 1]
    shutil.rmtree(flat)
    write_classes(data, {"flat": 0})
    plain(0).save(flat / "other.jpg")
    with pytest.raises(UserError, match="expected the names of files"):
        load(DataConfig(dataset="custom", data_folder="data", train_dir="flat", labels="labels.csv"))


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        (b"000.jpg,a\r\n001.jpg,b\r\n", ("a", "b")),
        (b"\xef\xbb\xbf000.jpg,a\n001.jpg,b\n", ("a", "b")),  # Excel's UTF-8
        (b"000.jpg,caf\xe9\n001.jpg,b\n", ("b", os.fsdecode(b"caf\xe9"))),
        (b"000.jpg,a\n001.jpg,b\n000.jpg, a\n", ("a", "b")),
        (b'000.jpg,"a, b"\n001.jpg,\xc3\xbc\n', ("a, b", "\u00fc")),
    ],
)
def test_label_files_are_read_with_any_line_ends_encoding_and_quotes(
    text: bytes, classes: tuple[str, ...], data: Path
) -> None:
    write_classes(data, {"flat": 2})
    (data / "labels.csv").write_bytes(text)
    splits = load(DataConfig(dataset="custom", data_folder="data", train_dir="flat", labels="labels.csv"))
    assert splits.classes == classes
    assert (splits.train.targets >= 0).all()


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("validation", [True, False])
def test_metrics_that_cannot_be_measured_are_absent_not_zero(
    labels: bool, validation: bool, data: Path, run: Run
) -> None:
    for split in ("train", "val"):
        if not labels:
            write_classes(data, {f"flat_{split}": 24 if split == "train" else 8})
    names = [split if labels else f"flat_{split}" for split in ("train", "val")]
    flags = ["--data_folder", "data", "--train_dir", names[0], *(["--val_dir", names[1]] if validation else [])]
    code, out, err = run(PRETRAIN, *SHORT, *flags, "--run_id", "r")
    assert (code, err) == (0, "")
    folder = data.parent / "trained_models/r"
    assert (folder / "neighbours.png").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert ("online_linear/train_top1" in summary) == labels
    assert ("online_linear/val_top1" in summary) == (labels and validation)
    assert ("knn/val_top1" in summary) == (labels and validation)
    assert "online_linear/val_top5" not in summary  # fewer than six classes
    assert ("main_linear.py" in out.splitlines()[-1]) == labels
    row = next(
        next_line for line, next_line in zip(out.splitlines(), out.splitlines()[1:], strict=False) if line[:4] == "----"
    )
    assert row.split().count("-") == (0 if labels and validation else 2)


def test_linear_evaluation_works_on_any_labelled_folder(data: Path, run: Run) -> None:
    flags = ["--data_folder", "data", "--train_dir", "train", "--val_dir", "val"]
    assert run(PRETRAIN, *SHORT, *flags, "--in_channels", "1", "--run_id", "grey")[0] == 0
    command = run(PRETRAIN, *SHORT, *flags, "--in_channels", "1")[1].rstrip().splitlines()[-1].split()
    code, out, err = run(LINEAR, *command[2:], "--epochs", "2", "--batch_size", "8", "--run_id", "l")
    assert (code, err) == (0, "")
    assert "offline linear" in out
    code, _, err = run(LINEAR, "custom", "resnet18", *flags, "--pretrained_feature_extractor", "trained_models/grey")
    assert (code, err.count("\n")) == (2, 1)
    assert "--in_channels: got 3, expected 1" in err
    write_classes(data, {"flat": 9})
    flat = ["--data_folder", "data", "--train_dir", "flat", "--in_channels", "1", "--batch_size", "4"]
    code, _, err = run(LINEAR, "custom", "resnet18", *flat, "--pretrained_feature_extractor", "trained_models/grey")
    assert (code, err.count("\n")) == (2, 1)
    assert "without labels" in err


def test_the_checkpoint_has_the_class_names_and_the_measured_normalisation(data: Path, run: Run) -> None:
    code, out, _ = run(PRETRAIN, *SHORT, "--data_folder", "data", "--train_dir", "train", "--run_id", "r")
    assert code == 0
    metadata = torch.load(data.parent / "trained_models/r/last.ckpt", weights_only=True)["cl"]
    assert metadata["classes"] == ("10", "9", "ant")
    mean, std = measure_norm(load(custom()).train)
    assert metadata["norm"] == (mean, std)
    assert f"mean {mean[0]}" in out


def test_measured_mean_and_std_are_those_of_all_pixels() -> None:
    images = torch.randint(0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = measure_norm(ArraySet(images, np.zeros(50, np.int64)))
    pixels = images.double().div(255).permute(1, 0, 2, 3).flatten(1)
    assert mean == pytest.approx(pixels.mean(dim=1).tolist(), abs=1e-4)
    assert std == pytest.approx(pixels.std(dim=1, correction=0).tolist(), abs=1e-4)


@pytest.mark.parametrize("size", [1, 10, 37, 99, 100, 500])
def test_a_stratified_subset_keeps_the_class_shares_and_is_deterministic(size: int) -> None:
    targets = np.repeat(np.arange(5), [10, 10, 20, 20, 40])
    images = ArraySet(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), targets)
    subset = stratified(images, size)
    repeated = stratified(images, size)
    indices = [int(subset.read(i)) for i in range(len(subset))]
    assert indices == [int(repeated.read(i)) for i in range(len(repeated))]
    assert len(set(indices)) == len(indices) == min(size, 100)
    assert [targets[i] for i in indices] == subset.targets.tolist()
    deviations = np.bincount(subset.targets, minlength=5) - np.array([10, 10, 20, 20, 40]) * min(size, 100) / 100
    assert np.abs(deviations).max() <= 1


def test_limit_eval_and_knn_bank_limit_the_images(data: Path, run: Run) -> None:
    splits = load(custom(val_dir="val", limit_eval=6))
    assert splits.val is not None
    assert np.bincount(splits.val.targets).tolist() == [2, 2, 2]
    flags = ["--data_folder", "data", "--train_dir", "train", "--val_dir", "val", "--knn_bank", "9"]
    code, out, err = run(PRETRAIN, *SHORT, *flags)
    assert (code, err) == (0, "")
    assert "9 of 24 labelled training images" in out
