"""`tar/GLOB`: images in shards are those of the folder that they were made of."""

import gzip
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from cl import embed
from cl.config.data import DataConfig
from cl.data import check
from cl.data.decoding.decode import BrokenFile
from cl.data.images import EncodedSet, ImageSet
from cl.data.sources.packed import local_files, shard_index, shards
from cl.data.sources.packed.patterns import expanded
from cl.data.sources.registry import load
from cl.data.views.norm import measure_norm
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.pictures import plain, write_classes
from tests.shards import as_shards, write_tar

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
SMALL = ["custom", "resnet18", *TINY, "--crop_size", "32", "--batch_size", "8", "--num_workers", "0", "--epochs", "1"]


@pytest.fixture
def data(folder: Path) -> Path:
    """A folder of images `data/train`, and the same images in the shards `data/shards`."""
    write_classes(folder / "data/train", {"10": 8, "9": 8, "ant": 8})
    as_shards(folder / "data/train", folder / "data/shards")
    return folder / "data"


def custom(train_dir: str = "tar/data/shards/*.tar", **flags: object) -> DataConfig:
    return DataConfig(dataset="custom", train_dir=train_dir, **flags)  # type: ignore[arg-type]


def jpeg(seed: int = 0) -> bytes:
    import io

    file = io.BytesIO()
    plain(seed).save(file, "JPEG")
    return file.getvalue()


def pixels(images: ImageSet) -> list[list[int]]:
    return [images.read(i).flatten().tolist() for i in range(len(images))]


def test_shards_are_the_images_and_labels_of_the_folder_in_the_same_order(data: Path) -> None:
    folder = load(custom("data/train"))
    packed = load(custom())
    assert packed.classes == folder.classes == ("10", "9", "ant")
    assert packed.train.targets.tolist() == folder.train.targets.tolist()
    assert pixels(packed.train) == pixels(folder.train)
    assert measure_norm(packed.train) == folder.norm == packed.norm
    assert packed.left_out == packed.notes == ()


def test_the_index_is_mapped_and_only_a_shard_that_changed_is_read_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    scan = shard_index._scan
    monkeypatch.setattr(shard_index, "_scan", lambda shard, scanning: read.append(shard.path) or scan(shard, scanning))
    train = load(custom()).train
    assert isinstance(train, shards.ShardSet)
    assert isinstance(train.index.offsets.base, np.memmap)
    assert read == [f"data/shards/{number:03d}.tar" for number in range(3)]
    read.clear()
    load(custom())
    assert read == []
    write_tar(data / "shards/001.tar", [("new.jpg", jpeg()), ("new.cls", b"ant")])
    found = load(custom())
    assert (read, len(found.train)) == (["data/shards/001.tar"], 17)
    assert found.train.targets.tolist() == [0] * 8 + [1] * 9


def test_images_are_not_checked_again_from_another_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(custom()).train.fingerprint()
    monkeypatch.setattr(shards, "check_member", lambda *_, **__: pytest.fail("checked"))
    monkeypatch.chdir(data)
    assert load(custom("tar/shards/*.tar")).train.fingerprint() == first


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_damaged_index_is_no_error_but_made_anew(content: bytes | None, data: Path) -> None:
    expected = load(custom())
    assert isinstance(expected.train, shards.ShardSet)
    folder = expected.train.index.folder
    assert folder is not None
    for path in (folder / "about.json", folder / "text.npy", folder / "codes.npy"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(OSError, match=r"."):
            shard_index.open_shard_index(folder)
        found = load(custom()).train
        assert isinstance(found, shards.ShardSet)
        assert (found.index.folder, found.targets.tolist()) == (folder, expected.train.targets.tolist())


def test_an_index_that_was_interrupted_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    scan = shard_index._scan

    def interrupted(shard: shard_index.Shard, scanning: shard_index.Scanning) -> shard_index.Members:
        read.append(shard.path[-7:])
        if len(read) == 3:
            raise KeyboardInterrupt
        return scan(shard, scanning)

    monkeypatch.setattr(shard_index, "_scan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(custom())
    assert len(load(custom()).train) == 24
    assert read == ["000.tar", "001.tar", "002.tar", "002.tar"]


def test_several_processes_index_as_one_does(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = load(custom()).train
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    monkeypatch.setattr(shard_index, "SERIAL_BYTES", 0)
    together = load(custom()).train
    assert isinstance(alone, EncodedSet)
    assert isinstance(together, EncodedSet)
    assert together.fingerprint() == alone.fingerprint()


def test_without_a_cache_folder_the_index_is_in_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pixels(load(custom()).train)
    monkeypatch.setattr(shard_index, "cache_folder", lambda: None)
    found = load(custom()).train
    assert pixels(found) == expected
    assert pixels(pickle.loads(pickle.dumps(found))) == expected


def test_a_set_is_sent_to_other_processes_without_its_index(data: Path) -> None:
    train = load(custom()).train
    train.read(0)
    sent = pickle.dumps(train)
    assert len(sent) < 1000
    assert pixels(pickle.loads(sent)) == pixels(train)
    assert isinstance(train, EncodedSet)
    shared = train.shared()
    assert shared is not None
    assert shared.open().targets.tolist() == train.targets.tolist()


def test_labels_are_the_field_that_the_flag_names(folder: Path) -> None:
    records = [{"breed": "pug"}, {"breed": 7}, {"breed": None}, {}]
    members = [(f"{i}.{kind}", b) for i, r in enumerate(records) for kind, b in (("jpg", jpeg(i)), ("json", dump(r)))]
    write_tar(folder / "a.tar", members)
    found = load(custom("tar/*.tar", label_column="breed"))
    assert found.classes == ("7", "pug")
    assert found.train.targets.tolist() == [1, 0, -1, -1]
    assert found.left_out == ("tar/*.tar: 2 of 4 images have no label",)
    plain_labels = load(custom("tar/*.tar"))
    assert (plain_labels.classes, plain_labels.train.targets.tolist()) == ((), [-1] * 4)


def dump(record: object) -> bytes:
    return json.dumps(record).encode()


def test_members_in_any_order_belong_to_their_key_and_others_are_counted(folder: Path) -> None:
    members = [("./a/1.cls", b"ant\n"), ("./a/2.JPG", jpeg(2)), ("./a/2.txt", b"a caption"), ("./a/2.cls", b"bee")]
    members += [("./a/1.png", jpeg(1)), ("./._x.jpg", b"macOS"), ("3.cls", b"ant"), ("4.seg.png", b"mask")]
    write_tar(folder / "a.tar", members)
    found = load(custom("tar/a.tar"))
    assert isinstance(found.train, EncodedSet)
    assert [str(found.train.path(i)) for i in range(2)] == ["a.tar/a/2.JPG", "a.tar/a/1.png"]
    assert found.train.targets.tolist() == [1, 0]
    assert sorted(found.left_out) == [
        "tar/a.tar: 1 members that label no image are left out, the first: 3",
        "tar/a.tar: 1 members with hidden names are left out, the first: ._x.jpg",
        "tar/a.tar: 2 members with other names are left out, the first: a/2.txt",
    ]


def test_bad_members_are_listed_like_bad_files(data: Path, run: Run) -> None:
    for name in ("train", "shards"):
        shutil.rmtree(data / name)
    write_classes(data / "train", {"a": 10, "b": 10})
    (data / "train/a/003.jpg").write_bytes(b"<html>not found</html>")
    (data / "train/b/003.jpg").write_bytes(b"")
    as_shards(data / "train", data / "shards")
    found = load(custom())
    assert {str(path): reason for path, reason in found.bad.items()} == {
        "data/shards/000.tar/a/003.jpg": "not an image",
        "data/shards/001.tar/b/003.jpg": "empty file",
    }
    folder = load(custom("data/train"))
    assert found.train.targets.tolist() == folder.train.targets.tolist()
    assert pixels(found.train) == pixels(folder.train)
    with pytest.raises(UserError, match=r"--bad_images: got error, but .*003.jpg is bad .*, and 1 more"):
        load(custom(bad_images="error"))
    for name, train_dir in (("folder", "data/train"), ("shards", "tar/data/shards/*.tar")):
        flags = [*SMALL, "--bad_images", "trust", "--train_dir", train_dir, "--run_id", name]
        assert run(PRETRAIN, *flags)[0] == 0
    rows = [Path(f"trained_models/{name}/metrics.csv").read_bytes() for name in ("folder", "shards")]
    assert rows[0] == rows[1]


def test_a_shard_that_vanishes_or_changes_during_a_run_is_named(data: Path) -> None:
    train = pickle.loads(pickle.dumps(load(custom()).train))  # as another process has it, with no shard open
    train.read(8)
    (data / "shards/002.tar").rename(data / "shards/gone")
    with pytest.raises(BrokenFile, match=r"data/shards/002.tar: the shard is missing or has changed since"):
        train.read(23)
    os.truncate(data / "shards/001.tar", 1024)
    with pytest.raises(BrokenFile, match=r"data/shards/001.tar: the shard is missing or has changed since"):
        train.read(10)
    assert train.read(0) is not None


def test_few_shards_are_open_at_a_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = load(custom()).train
    expected = pixels(train)
    monkeypatch.setattr(local_files, "OPEN_FILES", 1)
    before = len(os.listdir("/proc/self/fd"))
    assert [pixels(train)[i] for i in (0, 23, 9, 1)] == [expected[i] for i in (0, 23, 9, 1)]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_braces_are_numbers_or_names() -> None:
    assert list(expanded("a-{008..010}.tar")) == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert list(expanded("{a,b}/{0..1}")) == ["a/0", "a/1", "b/0", "b/1"]


def test_a_folder_whose_name_is_a_prefix_stays_a_folder(folder: Path) -> None:
    write_classes(folder / "tar/train", {"ant": 2})
    assert load(custom("tar/train")).classes == ("ant",)


def test_training_images_in_shards_go_with_validation_images_in_a_folder(data: Path) -> None:
    write_classes(data / "val", {"9": 2, "ant": 1})
    found = load(custom(val_dir="data/val"))
    assert found.val is not None
    assert found.val.targets.tolist() == [1, 1, 2]
    as_shards(data / "val", data / "val_shards", 1)
    packed = load(custom(val_dir="tar/data/val_shards/*.tar"))
    assert packed.val is not None
    assert packed.val.targets.tolist() == [1, 1, 2]
    assert packed.notes == found.notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", b"", "the file is empty"),
        ("a.tar", b"x" * 5000, "it is truncated or no tar"),
        ("a.tar", gzip.compress(b"x"), "a.tar, which is compressed, expected plain .tar files"),
        ("a.tar.gz", b"x", "a.tar.gz, which is compressed, expected plain .tar files"),
        ("a.zip", b"x", "expected a glob that matches .tar files; it matches none"),
    ],
)
def test_what_is_no_tar_is_refused(name: str, content: bytes, message: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(custom("tar/a*"))


@pytest.mark.parametrize("size", [100, 512, 2000, -20000, -10240, -9000])
def test_a_truncated_tar_is_refused_wherever_it_ends(size: int, folder: Path) -> None:
    path = write_tar(folder / "a.tar", [(f"{i}.jpg", jpeg(i)) for i in range(20)])
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    path.write_bytes(content[: size % end if size != -9000 else end])
    with pytest.raises(UserError, match=r"--train_dir: got a.tar, expected a whole tar of images; it is truncated"):
        load(custom("tar/a.tar"))


def test_joined_tars_are_refused(folder: Path) -> None:
    path = write_tar(folder / "a.tar", [("1.jpg", jpeg())])
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(UserError, match="damaged, or several tars were joined"):
        load(custom("tar/a.tar"))


@pytest.mark.parametrize(
    ("members", "flags", "message"),
    [
        ([("1.jpg", b"x"), ("1.png", b"x")], {}, "it has two images of one key, 1.jpg and 1.png"),
        ([("1.jpg", b"x"), ("1.cls", b"a"), ("1.cls", b"a")], {}, "it has two labels of one key, 1.cls"),
        ([("1.jpg", b"x"), ("1.json", b"\xff")], {"label_column": "a"}, "the label of 1.json cannot be read"),
        ([("1.jpg", b"x"), ("1.json", b"{")], {"label_column": "a"}, "the label of 1.json cannot be read"),
        ([("1.jpg", b"x"), ("1.json", b'{"a": [1]}')], {"label_column": "a"}, "expected a text or a whole number"),
        ([("1.jpg", b"x"), ("1.json", b'{"b": 1}')], {"label_column": "a"}, "a field of KEY.json .*; no image has it"),
        ([("1.txt", b"x")], {}, "expected members such as KEY.jpg; there are none; .*with other names are left out"),
        ([("1.jpg", b"x")], {}, "none of its files can be decoded; 1 bad images are skipped.*not an image"),
        ([("1.jpg", b"x")], {"labels": "l.csv"}, "--labels: got l.csv with --train_dir tar/a.tar"),
    ],
)
def test_unusable_members_are_one_line(
    members: list[tuple[str, bytes]], flags: dict[str, str], message: str, folder: Path
) -> None:
    write_tar(folder / "a.tar", members)
    with pytest.raises(UserError, match=message) as refusal:
        load(custom("tar/a.tar", **flags))
    assert "\n" not in str(refusal.value)


def test_check_and_embed_take_shards(data: Path, capsys: pytest.CaptureFixture[str], run: Run) -> None:
    write_tar(data / "shards/bad.tar", [("x/1.jpg", b"no image"), ("x/2.jpg", jpeg())])
    with pytest.raises(SystemExit) as end:
        check.main(["tar/data/shards/*.tar"])
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "data/shards/bad.tar/x/1.jpg: not an image\n" in out
    assert "25 of 26 images are good" in out
    assert run(PRETRAIN, *SMALL, "--train_dir", "tar/data/shards/*.tar", "--run_id", "run")[0] == 0
    for folder, out in (("tar/data/shards/0*.tar", "shards.npz"), ("data/train", "folder.npz")):
        embed.main(["trained_models/run", folder, "--out", out, "--num_workers", "0"])
    packed, files = np.load("shards.npz"), np.load("folder.npz")
    assert packed["paths"][:2].tolist() == ["data/shards/000.tar/10/000.jpg", "data/shards/000.tar/10/001.jpg"]
    assert packed["features"].tolist() == files["features"].tolist()
