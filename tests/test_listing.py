"""Starts on large folders: one look-up per file, names and labels as arrays, and only what changed is read again."""

import os
from pathlib import Path

import numpy as np
import pytest

from cl.config.data import DataConfig
from cl.data.images import FileSet
from cl.data.sources import manifest
from cl.data.sources.listing import list_images
from cl.data.sources.names import FileNames
from cl.data.sources.registry import load
from cl.machine.kept_files import keep_folder
from tests.pictures import write_classes


@pytest.fixture
def data(folder: Path) -> Path:
    return write_classes(folder / "data", {"ant": 4, "bee": 4})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that checks read."""
    names: list[str] = []
    original = manifest.read_image
    monkeypatch.setattr(manifest, "read_image", lambda path, c: names.append(path.name) or original(path, c))
    return names


def test_names_come_back_whatever_bytes_they_have() -> None:
    names = ["a/b.jpg", "", "caf\u00e9.png", os.fsdecode(b"caf\xe9.png"), "\n", "\u65e5\u672c.jpg"]
    kept = FileNames.of(names)
    assert list(kept) == [kept[i] for i in range(len(kept))] == names
    assert kept[-1] == names[-1]
    assert list(kept[1:3]) == names[1:3]
    assert names[3] in kept
    with pytest.raises(IndexError):
        kept[len(names)]


def test_a_file_is_looked_up_once(data: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(dataset="imagenet", train_dir="data")
    load(config)
    looked_up: list[str] = []
    for name in ("stat", "lstat"):
        original = vars(os)[name]
        monkeypatch.setattr(os, name, lambda path, *a, f=original, **k: looked_up.append(str(path)) or f(path, *a, **k))
    load(config)
    assert len(read) == 8
    assert [path for path in looked_up if path.endswith(".jpg")] == []  # the one is scandir's own


def test_files_that_came_changed_or_went_cost_no_check_of_the_others(data: Path, read: list[str]) -> None:
    config = DataConfig(dataset="imagenet", train_dir="data")
    load(config)
    read.clear()
    (data / "ant/001.jpg").unlink()
    (data / "bee/000.jpg").rename(data / "bee/zzz.jpg")
    (data / "ant/000.jpg").write_bytes(b"broken")
    assert list(load(config).bad.values()) == ["not an image"]
    assert read == ["000.jpg", "zzz.jpg"]
    read.clear()
    assert [path.name for path in load(config).bad] == ["000.jpg"]
    assert read == []


def test_a_damaged_manifest_is_made_anew(data: Path, read: list[str]) -> None:
    config = DataConfig(dataset="imagenet", train_dir="data")
    load(config)
    path = manifest.manifest_path(data, 3)
    assert path is not None
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        whole.replace(b"ends", b"ENDS"),
        whole.replace(b"ant/000", b"ant/00x"),
    ):
        path.write_bytes(damaged)
        read.clear()
        assert load(config).bad == {}
        assert len(read) == 8


def test_labels_take_the_smallest_type_and_batches_get_int64(data: Path) -> None:
    train = load(DataConfig(dataset="imagenet", train_dir="data")).train
    assert isinstance(train, FileSet)
    assert train.targets.dtype == np.int8
    for classes, kind in ((1, np.int8), (128, np.int8), (129, np.int16), (32768, np.int16), (32769, np.int32)):
        assert np.min_scalar_type(-classes) == kind


@pytest.mark.parametrize("names", [["b", "a", "C"], [os.fsdecode(b"\xe9"), "\ue000", "\u00e9", "z"]])
def test_files_come_in_byte_order(names: list[str], folder: Path) -> None:
    write_classes(folder, {"data": 1})
    source = folder / "data/000.jpg"
    for name in names:
        (folder / f"data/{name}.jpg").write_bytes(source.read_bytes())
    source.unlink()
    listing = list_images(folder / "data", "--train_dir")
    assert list(listing.files) == sorted((f"{name}.jpg" for name in names), key=os.fsencode)
    assert len(listing.stamps) == 2 * len(names)


def test_names_and_labels_are_mapped_from_an_index_that_a_later_start_finds(data: Path) -> None:
    config = DataConfig(dataset="imagenet", train_dir="data")
    first = load(config).train
    assert isinstance(first, FileSet)
    assert first.index is not None
    written = first.index.stat().st_mtime_ns
    again = load(config).train
    assert isinstance(again, FileSet)
    assert again.index == first.index
    assert again.index.stat().st_mtime_ns == written
    assert again.targets.tolist() == [0] * 4 + [1] * 4
    assert [again.path(i) for i in range(8)] == [first.path(i) for i in range(8)]
    (data / "ant/000.jpg").unlink()
    changed = load(config).train
    assert isinstance(changed, FileSet)
    assert [path.name for path in first.index.parent.glob("index-*")] == [changed.index.name]  # type: ignore[union-attr]
    assert first.path(0) == Path("data/ant/000.jpg")  # still mapped


@pytest.mark.parametrize("file", ["text.npy", "ends.npy", "targets.npy"])
def test_a_damaged_index_is_made_anew(file: str, data: Path) -> None:
    config = DataConfig(dataset="imagenet", train_dir="data")
    for size in (0, 5, 100, 130):  # of what a loss of power may leave
        first = load(config).train
        assert isinstance(first, FileSet)
        assert first.index is not None
        path = first.index / file
        content = path.read_bytes()
        path.unlink()  # `first` maps it
        path.write_bytes(content[:size])
        again = load(config).train
        assert isinstance(again, FileSet)
        assert again.index == first.index
        assert path.read_bytes() == content
        assert list(again.targets) == list(first.targets)


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}"))))
    keep_folder(tmp_path / "kept-1", "kept", lambda folder: (folder / "file").write_bytes(b"content"))
    assert synced == ["file", f"kept-1.{os.getpid()}"]


def test_images_without_labels_have_no_array_of_labels(data: Path) -> None:
    flat = load(DataConfig(dataset="imagenet", train_dir="data/ant")).train
    assert isinstance(flat, FileSet)
    assert flat.targets.tolist() == [-1] * 4
    assert flat.targets.strides == (0,)


def test_without_a_cache_folder_names_and_labels_are_in_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cache in ("/proc/no/such", "/dev/full"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        train = load(DataConfig(dataset="imagenet", train_dir="data")).train
        assert isinstance(train, FileSet)
        assert (train.index, len(train)) == (None, 8)
