"""`hf/PATH`: images in a column of Parquet files, or of a data set saved on disk."""

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl.data.decoding.decode import BrokenFile
from cl.data.shard.__main__ import main as write_shards
from cl.data.sources.packed import tables
from cl.errors import UserError
from tests.pictures import plain, write_classes
from tests.shards import as_table, contents, custom

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture
def data(folder: Path) -> Path:
    """A folder of images, and the same images as a table of several row groups."""
    write_classes(folder / "data", {"10": 8, "9": 8, "ant": 8})
    as_table(folder / "data", folder / "table.parquet")
    return folder / "data"


def test_a_table_has_the_images_and_classes_of_the_folder_in_any_order(data: Path) -> None:
    folder, table = custom("data"), custom("hf/table.parquet")
    order = np.random.default_rng(0).permutation(24).tolist()
    assert contents(table, order) == contents(folder, order)
    assert (table.classes, table.norm, table.left_out) == (folder.classes, folder.norm, ())
    sent = pickle.loads(pickle.dumps(table.train))
    assert sent.data(17) == contents(folder)[17][0]


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_a_data_set_that_was_saved_on_disk_is_read_in_its_order(kind: str, data: Path, folder: Path) -> None:
    whole = pq.read_table("table.parquet")
    saved = folder / "saved/train"
    saved.mkdir(parents=True)
    names = ["b.arrow", "a.arrow"]
    for name, part in zip(names, (whole.slice(0, 10), whole.slice(10)), strict=True):
        writer = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(saved / name), "wb") as sink, writer(sink, whole.schema) as out:
            out.write_table(part, max_chunksize=4)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    assert contents(custom("hf/saved/train")) == contents(custom("data"))
    (folder / "saved/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(UserError, match=r"hf/saved, expected one split: hf/saved/train \(it has train, test\)"):
        custom("hf/saved")


def test_columns_are_named_by_flags_and_labels_may_be_missing(folder: Path) -> None:
    files = []
    for i in range(4):
        plain(i).save(folder / f"{i}.png")
        files.append((folder / f"{i}.png").read_bytes())
    pq.write_table(pa.table({"jpg": files, "kind": ["b", "a", None, ""]}), folder / "t.parquet")
    found = custom("hf/t.parquet", image_column="jpg", label_column="kind")
    assert (found.classes, found.train.targets.tolist()) == (("a", "b"), [1, 0, -1, -1])
    assert found.left_out == ("hf/t.parquet: 2 of 4 images have no label",)
    assert custom("hf/t*.parquet", image_column="jpg").classes == ()


def test_bad_cells_are_listed_like_bad_files_and_a_table_becomes_shards(data: Path, folder: Path) -> None:
    whole = pq.read_table("table.parquet")
    cells = whole.column("image").to_pylist()
    cells[3] = {"bytes": b"<html>", "path": None}
    cells[20] = None
    broken = whole.set_column(0, "image", pa.array(cells, whole.schema.field("image").type))
    (folder / "parts").mkdir()
    pq.write_table(broken, folder / "parts/0.parquet", row_group_size=7)
    found = custom("hf/parts")
    assert {str(path): reason for path, reason in found.bad.items()} == {
        "parts/0.parquet/row 3": "not an image",
        "parts/0.parquet/row 20": "empty file",
    }
    expected = contents(custom("data"))
    assert contents(found) == [each for i, each in enumerate(expected) if i not in (3, 20)]
    write_shards(["hf/table.parquet", "shards"])
    assert contents(custom("tar/shards/*.tar")) == expected


def test_rows_are_not_checked_again_from_another_folder(
    data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = custom("hf/table.parquet").train.fingerprint()
    monkeypatch.setattr(tables, "check_row", lambda *_, **__: pytest.fail("checked"))
    monkeypatch.chdir(data)
    assert custom("hf/../table.parquet").train.fingerprint() == first


def test_a_table_that_changes_during_a_run_is_named(data: Path) -> None:
    sent = pickle.loads(pickle.dumps(custom("hf/table.parquet").train))
    as_table(data, Path("table.parquet"), other=[1] * 24)
    with pytest.raises(BrokenFile, match=r"table\.parquet: the file is missing or has changed"):
        sent.read(0)


@pytest.mark.parametrize(
    ("path", "flags", "message"),
    [
        ("hf/none.parquet", {}, "--train_dir: got hf/none.parquet, expected Parquet files or a data set"),
        ("hf/data", {}, "expected Parquet files or a data set saved on disk; there are none"),
        ("hf/data/10/000.jpg", {}, "got data/10/000.jpg, expected a Parquet or Arrow file"),
        ("hf/table.parquet", {"image_column": "x"}, "--image_column: got x, expected a column of .*: image, label"),
        ("hf/table.parquet", {"image_column": "label"}, "--image_column: got label, which has int64"),
        ("hf/table.parquet", {"label_column": "image"}, "--label_column: got image, which has struct"),
        ("hf/table.parquet", {"label_column": "x"}, "--label_column: got x, expected a column of"),
        ("hf/table.parquet", {"labels": "l.csv"}, "--labels: got l.csv with --train_dir hf/table"),
        ("hf/empty.parquet", {}, "expected images; it has no rows"),
    ],
)
def test_other_tables_are_refused_in_one_line(path: str, flags: dict[str, str], message: str, data: Path) -> None:
    pq.write_table(pq.read_table("table.parquet").slice(0, 0), "empty.parquet")
    with pytest.raises(UserError, match=message) as refusal:
        custom(path, **flags)
    assert "\n" not in str(refusal.value)


def test_without_pyarrow_the_message_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="but pyarrow is not installed; expected pip install pyarrow"):
        custom("hf/table.parquet")
