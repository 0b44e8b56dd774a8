"""report.html: complete, small, and text from users stays text."""

import json
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cl.errors import UserError
from cl.report import main
from cl.report_page.embedding import read_embedding
from cl.report_page.measured import MAX_EPOCHS, read_table, thinned
from cl.report_page.rows import duration
from tests.report_runs import COLUMNS, NASTY, PICTURES, add_embedding, add_pictures, metric, write_run
from tests.test_report import PRETRAIN, write, write_linear

QUOTED = '"' + NASTY.replace('"', '""') + '</table>"'  # as a cell of a CSV file


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    @property
    def data(self) -> Any:
        """What the script of the page reads."""
        (text,) = [text for text in self.texts if text.startswith('{"lines"')]
        return json.loads(text)


def page_of(folder: Path) -> Page:
    path = folder.parent / "report.html"
    main([str(folder), "--html", str(path)])
    return Page(path)


def test_twenty_runs_of_a_hundred_epochs_with_pictures_stay_below_ten_megabytes(tmp_path: Path) -> None:
    for number in range(20):
        folder = write_run(tmp_path / f"runs/run{number}", number, epochs=100, lr=0.1 * number)
        add_pictures(folder, 500, 400)
        add_embedding(folder, [f"{number} {image} {'x' * 100}.jpg" for image in range(2000)], ["cat", "dog"])
    page = page_of(tmp_path / "runs")
    assert (tmp_path / "report.html").stat().st_size < 10_000_000
    assert len(page.data["lines"]) == 20
    assert len(page.data["embeddings"]) > 10
    assert len([url for url in page.attributes("src") if url]) == 20 * len(PICTURES)


def test_the_page_has_the_numbers_of_metrics_csv(tmp_path: Path) -> None:
    for number in (0, 1):
        write_run(tmp_path / f"runs/run{number}", number, lr=0.1 + number)
    for number, line in enumerate(page_of(tmp_path / "runs").data["lines"]):
        columns = line["runs"][0]["columns"]
        assert columns["epoch"] == list(range(1, 13))
        for place, name in enumerate(COLUMNS):
            assert columns[name] == [float(f"{metric(number, epoch, place):.6g}") for epoch in range(1, 13)]


def test_seeds_share_a_row_and_each_has_its_command_and_versions(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"runs/s{seed}", seed, seed=seed)
    write_linear(tmp_path / "runs/l", "s0", 0.9)
    page = page_of(tmp_path / "runs")
    (line,) = page.data["lines"]
    assert [run["key"] for run in line["runs"]] == ["s0", "s1", "l"]
    for text in ("50.5 ± 0.7 % (2)", "90.0 %", "30 s", "1000", "torch 2.11", "abc"):
        assert text in page.texts, text
    assert "python main_contrastive.py digits resnet18 --name s1" in page.texts


def test_the_installed_command_shows_installed_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs/s1", 0)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/cl-report"])
    assert "cl-pretrain digits resnet18 --name s1" in page_of(tmp_path / "runs").texts


def test_only_flags_in_which_runs_differ_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", 0, lr=0.1)
    write_run(tmp_path / "runs/b", 1, lr=0.2)
    texts = [text.strip() for text in page_of(tmp_path / "runs").texts if text.strip()]
    table = texts[texts.index("Flags in which the runs differ") + 1 : texts.index("Each run")]
    assert table == ["run", "lr", "a", "0.1", "b", "0.2"]


def test_a_run_that_goes_on_is_shown_with_its_progress_and_latest_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/going", 3, epochs=5, ended=False)
    page = page_of(tmp_path / "runs")
    assert "epoch 5 of 12" in page.texts
    assert f"{100 * metric(3, 5, 2):.1f} %" in page.texts
    assert "1003" in page.texts


def test_an_older_run_and_a_run_of_one_batch_have_rows_of_their_own(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write_run(tmp_path / "runs" / name, 0)
    write_run(tmp_path / "runs/quick", 0, fast_dev_run=True)
    content = json.loads((tmp_path / "runs/quick/config.json").read_text())
    content["config"]["run"]["fast_dev_run"]["value"] = True
    (tmp_path / "runs/quick/config.json").write_text(json.dumps(content))
    page = page_of(tmp_path / "runs")
    assert [line["key"] for line in page.data["lines"]] == ["new", "old", "quick"]
    assert {"older", "one batch"} <= set(page.texts)


def test_names_paths_and_flags_are_text_everywhere(tmp_path: Path) -> None:
    plain = page_of(write_run(tmp_path / "plain/a", 0).parent)
    name = NASTY.replace("/", "\u2215") + "\u202egnp.\x07"
    folder = write_run(tmp_path / "<b>runs" / name, 0, argv=f"custom resnet18 --train_dir {NASTY}", stem=NASTY)
    (folder / "metrics.csv").write_text(f"epoch,loss,{QUOTED}\n1,2,3\n")
    page = page_of(folder.parent)
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert "<b>runs" in page.texts
    shown = name.replace("\u202e", "\\u202e").replace("\x07", "\\x07")
    assert page.data["lines"][0]["key"] == shown
    assert shown in page.texts
    assert f"python main_contrastive.py custom resnet18 --train_dir {NASTY}" in page.texts
    assert f"{NASTY}</table>" in page.data["lines"][0]["runs"][0]["columns"]


def test_no_file_outside_the_folder_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("epoch,loss\n1,0.4321\n")
    folder = write_run(tmp_path / "runs/a", 0)
    write_run(tmp_path / "elsewhere/b", 0, lr=0.7)
    for name in ("metrics.csv", "timing.csv"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
    add_pictures(tmp_path / "elsewhere/b", 40, 40)
    (folder / "views.png").symlink_to(tmp_path / "elsewhere/b/views.png")
    os.mkfifo(folder / "worth.png")
    (tmp_path / "runs/linked").symlink_to(tmp_path / "elsewhere/b")
    (tmp_path / "runs/c").mkdir()
    (tmp_path / "runs/c/config.json").symlink_to(tmp_path / "elsewhere/b/config.json")
    page = page_of(tmp_path / "runs")
    assert page.attributes("src") == []
    assert [line["runs"] for line in page.data["lines"]] == [[{"key": "a", "evaluation": False, "columns": {}}]]
    assert "0.4321" not in (tmp_path / "report.html").read_text()


def test_the_page_asks_for_nothing_from_anywhere(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "runs/a", 0).parent)
    (policy,) = [text for text in page.attributes("content") if text and "default-src" in text]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert all(link in ("#run", "data:,") for link in page.attributes("href"))


def test_the_map_of_a_run_has_names_and_pictures_and_runs_on_the_same_images_share_them(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        folder = write_run(tmp_path / "runs" / name, number, lr=0.1 + number)
        add_embedding(folder, ["x.png", NASTY, "z.png"], ["cat", "</script>"])
    data = page_of(tmp_path / "runs").data
    (digest,) = data["images"]
    assert [(each["key"], each["images"]) for each in data["embeddings"]] == [("a", digest), ("b", digest)]
    assert data["images"][digest]["names"] == ["x.png", NASTY, "z.png"]
    assert data["embeddings"][0]["classes"] == ["cat", "</script>"]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("x", [1.0]), ("x", [1.0, 2.0, float("inf")]), ("class", [0, 1, 2]), ("cluster", "abc"), ("classes", None),
        ("jpeg", "PHN2Zz4="), ("jpeg", "/9j/');"), ("names", ["x"]), ("tiles", [0, 1, 10**9]), ("columns", 0),
    ],
)  # fmt: skip
def test_a_map_that_is_half_written_or_wrong_is_left_out(where: str, value: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs/a", 0)
    add_embedding(folder, ["x", "y", "z"], ["cat", "dog"])
    content = json.loads((folder / "embedding.json").read_text())
    assert read_embedding(folder) == content
    (content if where in content else content["images"])[where] = value
    text = json.dumps(content)
    for damaged in (text, text[: len(text) // 2]):
        (folder / "embedding.json").write_text(damaged)
        assert read_embedding(folder) is None


def test_two_builds_are_equal_to_the_byte(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs/a", 0).parent
    page_of(folder)
    first = (tmp_path / "report.html").read_bytes()
    page_of(folder)
    assert (tmp_path / "report.html").read_bytes() == first


@pytest.mark.parametrize("damage", ["", "epoch,lo", "\0\0\0", "epoch,loss\n1,nan\nx,inf\n3,", "\xff\n\n,,,\n"])
def test_a_table_that_is_half_written_or_not_finite_is_shown_as_far_as_it_goes(damage: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs/a", 0)
    (folder / "metrics.csv").write_bytes(damage.encode("latin-1"))
    (folder / "views.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    (folder / "timing.csv").unlink()
    page = page_of(tmp_path / "runs")
    columns = page.data["lines"][0]["runs"][0]["columns"]
    assert columns == ({"epoch": [1.0, None], "loss": ["nan", "inf"]} if "nan" in damage else {})
    assert page.attributes("src") == []


def test_a_line_without_its_end_is_not_a_row() -> None:
    assert read_table("epoch,loss\n1,0.5\n2,0.2") == [{"epoch": 1, "loss": 0.5}]
    assert read_table("epoch,loss\r\n1,0.5\r\n") == [{"epoch": 1, "loss": 0.5}]


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    rows = [{"epoch": float(epoch)} for epoch in range(1, 10 * MAX_EPOCHS + 2)]
    kept = thinned(rows)
    assert len(kept) <= MAX_EPOCHS
    assert kept[-1] == rows[-1]
    assert thinned(rows[:MAX_EPOCHS]) == rows[:MAX_EPOCHS]


def test_runs_of_the_same_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        write_run(tmp_path / parent / "a", 0, lr=0.1 if parent == "x" else 0.2)
    main([str(tmp_path / "x"), str(tmp_path / "y"), "--html", str(tmp_path / "report.html")])
    assert [line["key"] for line in Page(tmp_path / "report.html").data["lines"]] == ["a", "a (2)"]


def test_a_folder_without_runs_and_a_run_without_any_table_make_a_page(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert page_of(tmp_path / "runs").data == {"lines": [], "embeddings": [], "images": {}}
    write(tmp_path / "runs/a", PRETRAIN, None)
    (line,) = page_of(tmp_path / "runs").data["lines"]
    assert line["runs"][0]["columns"] == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7625, "2 h 07 min")]
)
def test_a_time_is_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_plotly_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl.report_page.page import chart_library

    chart_library.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    write_run(tmp_path / "runs/a", 0)
    with pytest.raises(UserError, match=r"--html: .*the extra report: pip install plotly"):
        main([str(tmp_path / "runs"), "--html", str(tmp_path / "report.html")])
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", 0)
    with pytest.raises(UserError, match=r"--html: got .*report.html, expected a file"):
        main([str(tmp_path / "runs"), "--html", str(tmp_path / "missing/report.html")])
