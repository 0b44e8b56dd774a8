"""Text from users is never markup, and a picture or table that fails costs a warning, never the result."""

import csv
import multiprocessing
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from cl.config.resume import Resume
from cl.data.images import ArraySet
from cl.data.loader import BrokenFiles
from cl.data.sources.manifest import write_bad_images
from cl.errors import Stopped, csv_cell, markdown_cell, one_line
from cl.evaluation.pictures.drawing import label
from cl.evaluation.pictures.embedding_picture import save_embedding
from cl.evaluation.pictures.neighbours_picture import save_neighbours
from cl.report import _markdown, find_runs, rows_of, tabulate
from cl.run.folder import atomic_files
from cl.run.folder.closing import closing_table
from cl.run.folder.resume_point import find_resume_point
from tests.conftest import TINY, Run
from tests.pictures import write_classes

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
NAMES = [
    "$10_to_$20", "$", r"$\frac{1$", "a_b^c", "_hidden", "50%_off", "{}", "{0}", "%s", r"back\slash", r"\nightmare",
    "new\nline", "tab\there", "bell\a", "\x1b[31mred", "\u202eesrever", "=1+1", "+1", "-1", "@SUM(A1)",
    "<b>bold</b>", "|pipe|", "`code`", "[link](x)", "long " * 40, "\u05e9\u05dc\u05d5\u05dd", "\U0001f600",
    "\u4e2d\u6587", os.fsdecode(b"caf\xe9"), " leading",
]  # fmt: skip


def is_plain(text: str) -> bool:
    """No control character, no mark that reverses text, no surrogate."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c == "\u202e" for c in text)


@pytest.fixture
def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """All texts of the figures that are saved during a test."""
    texts: list[Text] = []
    save = Figure.savefig

    def recording_save(self: Figure, *args: Any, **kwargs: Any) -> None:
        texts.extend(self.findobj(Text))
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", recording_save)
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is_in_every_picture(
    name: str, tmp_path: Path, drawn_texts: list[Text], recwarn: pytest.WarningsRecorder
) -> None:
    images = ArraySet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), np.array([0, 0, 1, 1]))
    save_neighbours(images, torch.eye(4), [name, "b"], tmp_path / "neighbours.png")
    save_embedding(torch.eye(4), torch.tensor([0, 0, 1, 1]), [name, "b"], "validation", tmp_path / "map.png")
    shown = [text for text in drawn_texts if label(name).strip() in text.get_text()]
    assert len(shown) > 8  # a title for each tile, and an entry of the legend
    assert not any(text.get_parse_math() for text in shown)
    assert all(is_plain(text.get_text()) and len(text.get_text()) < 40 for text in shown)
    assert [str(warning.message) for warning in recwarn] == []


def test_pictures_ignore_the_users_matplotlibrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    save_embedding(torch.eye(4), torch.arange(4) % 2, ["$a_b$", "b"], "validation", tmp_path / "map.png")
    assert (tmp_path / "map.png").exists()
    assert matplotlib.rcParams["text.usetex"]


@pytest.mark.usefixtures("pictures")
def test_classes_of_any_name_are_trained_evaluated_and_reported(run: Run, folder: Path) -> None:
    names = [name for name in NAMES if len(os.fsencode(name)) < 250]
    write_classes(folder / "=train", dict.fromkeys(names, 3))
    write_classes(folder / "val", dict.fromkeys(names[:-1], 1))
    (folder / "=train" / names[0] / "=x\n.jpg").write_bytes(b"damaged")
    flags = ["custom", "resnet18", "--train_dir", "=train", "--val_dir", "val", "--crop_size", "16"]
    flags += ["--gaussian_prob", "0", "--num_workers", "0"]
    code, out, err = run(PRETRAIN, *flags, "--max_steps", "1", *TINY, "--run_id", "run")
    assert (code, err) == (0, "")
    assert "online linear" in out
    assert all(is_plain(line) for line in out.split("\n"))
    found = {file.name for file in (folder / "trained_models/run").iterdir()}
    assert {"backbone.safetensors", "summary.json", "neighbours.png", "embedding.png", "bad_images.csv"} <= found
    with (folder / "trained_models/run/bad_images.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["file", "reason"]
    assert row[0] == rf"'=train/{names[0]}/=x\n.jpg"
    evaluation = ["--epochs", "1", "--lr", "0.1", "1", "--pretrained_feature_extractor", "trained_models/run"]
    code, out, err = run(LINEAR, *flags[:8], *evaluation, "--batch_size", "16")
    assert (code, err) == (0, "")
    assert all(is_plain(line) for line in out.split("\n"))


@pytest.mark.parametrize("name", NAMES)
def test_each_escaping_leaves_nothing_that_acts(name: str) -> None:
    assert is_plain(one_line(name))
    assert is_plain(label(name))
    assert is_plain(csv_cell(name))
    assert csv_cell(name)[0] not in "=+-@\t\r"
    escaped = markdown_cell(name)
    assert is_plain(escaped)
    assert re.sub(r"\\(\W|_)", r"\1", escaped) == one_line(name)
    assert not re.search(r"(?<!\\)(\\\\)*[|<`$*\[]", escaped)


def test_names_and_numbers_without_markup_stay_as_they_are() -> None:
    for text in ("barlow_twins", "resnet18, width 4", "50.0 +- 1.0 % (3)", "a/b_c-d.jpg", "\u05e9\u05dc", "caf\u00e9"):
        assert (one_line(text), csv_cell(text), markdown_cell(text)) == (text, text, text)
    assert csv_cell("-0.5") == "'-0.5"  # for text only: numbers are written as they are
    assert markdown_cell("_a_b_") == r"\_a_b\_"


def test_bad_images_csv_has_a_line_per_file(tmp_path: Path) -> None:
    write_bad_images(tmp_path / "bad.csv", {Path(name): "@reason\n" for name in NAMES})
    lines = (tmp_path / "bad.csv").read_text().splitlines()
    assert len(lines) == len(NAMES) + 1
    with (tmp_path / "bad.csv").open(newline="") as file:
        assert all(cell[0] not in "=+-@" for row in csv.reader(file) for cell in row)


def test_bad_images_csv_has_one_heading_and_each_row_once_whoever_writes(tmp_path: Path) -> None:
    def write() -> None:
        for number in range(50):
            write_bad_images(tmp_path / "bad.csv", {str(number): "not an image"})

    processes = [multiprocessing.get_context("fork").Process(target=write) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    write_bad_images(tmp_path / "bad.csv", {Path("7"): "not an image", Path("new"): "empty file"})
    rows = (tmp_path / "bad.csv").read_text().splitlines()
    assert rows == ["file,reason", *(f"{number},not an image" for number in range(50)), "new,empty file"]


def test_a_broken_file_is_one_line_whatever_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    BrokenFiles().add("a\x1b[2J\n.jpg", "no\timage")
    assert capsys.readouterr().err.startswith(r"warning: a\x1b[2J\n.jpg: no\timage; the next image takes its place")


def test_a_report_has_a_cell_for_a_folder_of_any_name(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, "digits", "resnet18", *TINY, "--max_steps", "1", "--run_id", "run")[0] == 0
    (folder / "trained_models/run").rename(folder / "trained_models/=a|b\n<i>_$x$")
    table = tabulate(find_runs([folder / "trained_models"]), folder / "table.csv")
    assert r"| =a\|b\\n\<i\>\_\$x\$ |" in table
    assert table == _markdown(rows_of(find_runs([folder / "trained_models"])))
    with (folder / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["runs"] == r"'=a|b\n<i>_$x$"


@pytest.mark.parametrize("typed", ["\x1b[31m", "\u202e", "a\rb", os.fsdecode(b"\xff")])
def test_an_error_is_one_plain_line_whatever_was_typed(typed: str, run: Run, folder: Path) -> None:
    code, _, err = run(PRETRAIN, "digits", "resnet18", "--optimizer", typed)
    assert (code, err.count("\n")) == (2, 1)
    assert is_plain(err[:-1])


FIRST = [PRETRAIN, "digits", "resnet18", *TINY, "--max_steps", "1", "--run_id", "run"]
PICTURES = {
    "views.png": "cl.evaluation.pictures.views_picture.save_views",
    "curves.png": "cl.evaluation.pictures.curves_picture.save_curves",
    "neighbours.png": "cl.evaluation.pictures.neighbours_picture.save_neighbours",
    "embedding.png": "cl.evaluation.pictures.embedding_picture.save_embedding",
}
FAILURES: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError("\n$x$\nParseException: Expected end of text, found '$'  (at char 0)"),
    "ImportError": lambda: ImportError("libfreetype.so.6: cannot open shared object file"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "MemoryError": MemoryError,
}


def assert_finished(result: tuple[int, str, str], folder: Path, warnings: int) -> None:
    code, out, err = result
    assert code == 0
    assert err.count("\n") == warnings
    assert all(re.match(r"warning: \w+\.png was not drawn \(", line) for line in err.splitlines())
    assert "online linear  " in out
    assert "Next, linear evaluation of the frozen backbone" in out
    found = {file.name for file in (folder / "trained_models/run").iterdir()}
    assert {"last.ckpt", "backbone.safetensors", "backbone.json", "summary.json", "metrics.csv"} <= found


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_that_fails_costs_one_warning(
    picture: str, kind: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert picture == "views.png" or (folder / "trained_models/run/summary.json").exists()
        raise FAILURES[kind]()

    monkeypatch.setattr(PICTURES[picture], fail)
    assert_finished(run(*FIRST), folder, warnings=1)
    code, out, err = run(*FIRST, "--resume_training_from", "auto")
    assert (code, err) == (0, "")
    assert "is finished" in out


@pytest.mark.usefixtures("pictures")
def test_a_machine_without_matplotlib_trains(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert_finished(run(*FIRST), folder, warnings=4)


@pytest.mark.usefixtures("pictures")
def test_features_for_a_picture_that_cannot_be_computed_cost_it_only(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for name in ("neighbours", "embedding"):
        monkeypatch.setattr(f"cl.evaluation.pictures.{name}_picture.extract_features", unreadable)
    assert_finished(run(*FIRST), folder, warnings=2)


def test_a_grid_or_dry_run_whose_picture_fails_keeps_its_results(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("x")

    assert run(*FIRST)[0] == 0
    monkeypatch.setattr("cl.run.folder.linear_results.save_grid", fail)
    evaluate = ["--pretrained_feature_extractor", "trained_models/run", "--protocol", "cached", "--run_id", "linear"]
    code, out, err = run(LINEAR, "digits", "resnet18", *evaluate, "--lr", "0.1", "1", "--epochs", "1")
    assert (code, err) == (0, "warning: linear_grid.png was not drawn (ValueError: x)\n")
    assert "offline linear" in out
    found = {file.name for file in (folder / "trained_models/linear").iterdir()}
    assert {"head.safetensors", "grid.csv", "summary.json"} <= found
    monkeypatch.setattr("cl.run.start.dry_run.save_views", fail)
    code, out, err = run(PRETRAIN, "digits", "resnet18", *TINY, "--dry_run")
    assert (code, err) == (0, "warning: views.png was not drawn (ValueError: x)\n")
    assert out.endswith("\nnothing was trained\n")


def test_a_folder_with_any_name_is_one_plain_line_of_a_warning_or_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "PAUSE", 0)
    folder = tmp_path / "new\nline \x1b[31mred"
    with pytest.raises(Stopped):
        atomic_files.write_or_stop(folder / "metrics.csv", lambda file: file.write(b""))
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(b"damaged")
    find_resume_point(Resume(folder, auto=True), Mock(), steps=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: ") for line in lines] == [True, True]
    assert all(r"new\nline \x1b[31mred" in line for line in lines)
    assert len(closing_table({}, {}, 1.0, folder).splitlines()) == 3
