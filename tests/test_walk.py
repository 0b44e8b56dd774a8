"""Which files of a folder are looked at: one rule, and a note about what it leaves out."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl import embed
from cl.config.data import DataConfig
from cl.data import check
from cl.data.decoding import formats
from cl.data.images import Splits
from cl.data.sources.registry import load
from cl.data.sources.walk import MAX_HIDDEN, is_hidden, walk
from cl.errors import UserError
from tests.conftest import Run
from tests.pictures import write_classes
from tests.test_folders import PRETRAIN, SHORT

HIDDEN = (".ipynb_checkpoints", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails", "lost+found")


@pytest.fixture
def data(folder: Path) -> Path:
    return write_classes(folder / "data", {"ant": 12, "bee": 12})


def splits(**flags: object) -> Splits:
    return load(DataConfig(dataset="custom", train_dir="data", **flags))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_or_system_folder_is_left_out_at_any_depth_and_counted(name: str, data: Path) -> None:
    assert is_hidden(name)
    for parent in (data, data / "ant", data / "ant/deep"):
        shutil.copytree(data / "bee", parent / name)
    found = splits()
    assert found.classes == ("ant", "bee")
    assert len(found.train) == 24
    (note,) = found.left_out
    assert note.startswith("data: 36 images with hidden names or in hidden or system folders are left out, the first: ")


def test_hidden_files_are_left_out_and_counted(data: Path) -> None:
    for name in ("._000.jpg", ".000.jpg"):
        (data / "ant" / name).write_bytes(b"\0\5\x16\7")
    (data / "ant/.DS_Store").write_bytes(b"Bud1")
    found = splits()
    assert (len(found.train), found.bad) == (24, {})
    assert found.left_out[0].startswith("data: 2 images with hidden names")


def test_a_data_set_in_a_hidden_folder_is_looked_at(data: Path) -> None:
    shutil.move(data, ".cache/data")
    assert len(load(DataConfig(dataset="custom", train_dir=".cache/data")).train) == 24


def test_the_check_and_embed_follow_the_same_rule(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(data / "bee", data / "ant/.ipynb_checkpoints")
    with pytest.raises(SystemExit) as end:
        check.main(["data"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "24 of 24 images are good" in out
    assert "data: 12 images with hidden names" in out
    files, notes = embed._list(Path("data"))
    assert len(files) == 24
    assert notes[0].startswith("data: 12 images with hidden names")


def test_every_suffix_that_pillow_registers_for_a_format_it_reads_is_looked_at(data: Path) -> None:
    suffixes = (".jfif", ".jpe", ".JPEG", ".mpo", ".jp2", ".avif", ".tga", ".pbm", ".pnm", ".webp", ".qoi", ".ico")
    assert {suffix.lower() for suffix in suffixes} <= formats.readable_suffixes()
    for suffix in suffixes:
        shutil.copy(data / "ant/000.jpg", data / f"ant/copy{suffix}")
    assert np.bincount(splits().train.targets).tolist() == [12 + len(suffixes), 12]
    assert not formats.readable_suffixes() & {".eps", ".ps", ".pdf", ".h5", ".mpg", ".wmf", ".txt", ""}


def test_files_that_look_like_images_but_are_not_read_are_counted_by_format(data: Path) -> None:
    photograph = (data / "ant/000.jpg").read_bytes()
    for i in range(3):
        (data / f"ant/{i}").write_bytes(photograph)  # no suffix at all
    (data / "ant/x.jpg_large").write_bytes(photograph)
    (data / "bee/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (data / "bee/scan.dcm").write_bytes(bytes(128) + b"DICM")
    Image.new("L", (9, 9)).save(data / "bee/camera.dng", "TIFF")
    (data / "bee/notes.txt").write_text("BM is not a bitmap")
    (data / "bee/empty").write_bytes(b"")
    os.mkfifo(data / "bee/pipe")
    assert splits().left_out == (
        "data: 4 JPEG files are left out, the first: ant/0; name them with the suffix of their format",
        "data: 1 raw photograph files are left out, the first: bee/camera.dng; convert them to PNG or TIFF",
        "data: 1 HEIC files are left out, the first: bee/phone.heic; they are read with pillow-heif installed",
        "data: 1 DICOM files are left out, the first: bee/scan.dcm; convert them to PNG or TIFF",
    )


def test_an_installed_plugin_adds_its_format(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data.parent / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', PngImagePlugin.PngImageFile, PngImagePlugin._accept)\n"
        "    Image.register_extension('HEIF', '.heic')\n"
    )
    monkeypatch.syspath_prepend(str(data.parent))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    for function in (formats.readable_formats, formats.readable_suffixes):
        function.cache_clear()
    try:
        assert ".heic" in formats.readable_suffixes()
        assert "HEIF" in formats.readable_formats()
    finally:
        sys.modules.pop("pillow_heif", None)
        monkeypatch.undo()
        for function in (formats.readable_formats, formats.readable_suffixes):
            function.cache_clear()


def test_a_stray_folder_beside_flat_photographs_does_not_hide_them(folder: Path) -> None:
    write_classes(folder, {"data": 36})
    for stray in ("__MACOSX", "albums", "albums/2019"):
        (folder / "data" / stray).mkdir()
    (folder / "data/__MACOSX/._000.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "data/albums/list.txt").write_text("none")
    found = splits()
    assert (len(found.train), found.classes) == (36, ())
    assert found.left_out[0] == "data: taken as a flat folder, since its 1 folders have no images"


def test_a_later_refusal_says_what_was_set_aside(folder: Path, run: Run) -> None:
    write_classes(folder, {"data": 36})
    write_classes(folder / "data", {"albums": 1})
    shutil.copy("data/000.jpg", "data/albums/.hidden.jpg")
    (folder / "data/albums/bad.jpg").write_bytes(b"")
    code, out, err = run(PRETRAIN, *SHORT, "--train_dir", "data")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "expected a global batch of at most" in err
    for note in (
        "data: 36 images outside the class folders are skipped",
        "data: 1 images with hidden names",
        "1 bad images are skipped, the first: data/albums/bad.jpg (empty file)",
    ):
        assert note in err


@pytest.mark.parametrize("labelled", [True, False])
def test_validation_images_must_be_labelled_if_and_only_if_the_training_images_are(
    labelled: bool, data: Path, run: Run
) -> None:
    write_classes(data.parent, {"flat": 12})
    train, val = ("data", "flat") if labelled else ("flat", "data")
    code, out, err = run(PRETRAIN, *SHORT, "--train_dir", train, "--val_dir", val)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: --val_dir: got {val}")
    assert ("python -m cl.data.imagenet_val" in err) == labelled
    assert not (data.parent / "trained_models").exists()


def test_validation_images_that_all_fail_to_decode_are_refused(data: Path) -> None:
    for name in ("ant", "bee"):
        (data.parent / "val" / name).mkdir(parents=True)
        (data.parent / "val" / name / "0.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="--val_dir: got val, expected readable images"):
        splits(val_dir="val")


@pytest.mark.parametrize("where", ["data", "data/ant", "data/ant/deep"])
def test_a_folder_that_cannot_be_listed_is_refused_not_taken_for_empty(
    where: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "ant/deep").mkdir()
    scandir = os.scandir

    def failing(path: Path) -> object:
        if os.fspath(path) == where:
            raise PermissionError(13, "Permission denied", where)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UserError, match=f"--train_dir: got data, but {where} cannot be listed \\(Permission denied"):
        splits()


def test_links_are_followed_and_cycles_are_not(data: Path) -> None:
    os.symlink(data, data / "ant/up")
    os.symlink("../bee", data / "ant/other")
    os.symlink(".", data / "itself")  # no class of all images
    os.symlink("..", data / "parent")
    os.symlink("nowhere.jpg", data / "ant/dangling.jpg")
    os.symlink("loop.jpg", data / "ant/loop.jpg")
    assert len(walk(Path("data"), "ant").images) == 12 + 12 + 2
    assert {Path(file).name for file in splits().bad} == {"dangling.jpg", "loop.jpg"}
    assert splits().classes == ("ant", "bee")


def test_a_hidden_link_that_may_not_be_followed_stops_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink("bee", data / "ant/._000.jpg")

    def refuse(path: object, **options: object) -> os.stat_result:
        if "._000" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)  # type: ignore[arg-type]

    stat = os.stat
    monkeypatch.setattr(os, "stat", refuse)
    assert len(splits().train) == 24


def test_a_link_to_the_given_folder_is_not_a_class(data: Path) -> None:
    os.symlink(".", data / "self")
    os.symlink(data.parent, data / "above")
    assert splits().classes == ("ant", "bee")
    write_classes(data.parent, {"flat": 3})
    os.symlink(".", data.parent / "flat/loop")
    assert len(load(DataConfig(dataset="custom", train_dir="flat")).train) == 3


def test_the_files_of_a_folder_come_before_those_of_its_folders(data: Path) -> None:
    """An interrupted run finds its images in the same order."""
    shutil.copytree(data / "bee", data / "ant/0_first")
    images = walk(Path("data"), "ant").images
    assert images == [f"ant/{i:03d}.jpg" for i in range(12)] + [f"ant/0_first/{i:03d}.jpg" for i in range(12)]


def test_a_snapshot_of_the_data_is_not_counted_to_its_end(data: Path) -> None:
    (data / "#snapshot").mkdir()
    for i in range(MAX_HIDDEN + 5):
        (data / f"#snapshot/{i}.jpg").touch()
    assert splits().left_out[0].startswith("data: at least 1000 images with hidden names")
