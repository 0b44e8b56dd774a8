"""report.html in a real browser: it sorts, filters and draws, by keyboard alone, on a phone, and asks for nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cl.report import main
from tests.report_runs import COLUMNS, NASTY, add_embedding, add_pictures, metric, metrics_text, write_run
from tests.test_report import write_linear
from tests.test_report_serve import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("small", "warm", NASTY.replace("/", "\u2215"))
IMAGES = [f"photo {number}.png" for number in range(20)]
CHART = "[data-chart='1']"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as session:
        started = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of four runs and an evaluation."""
    folder = tmp_path_factory.mktemp("pages")
    for number, name in enumerate(NAMES):
        add_pictures(write_run(folder / "runs" / name, number, lr=(0.5, 10.0, 0.03)[number]), 400, 300)
    add_embedding(folder / "runs/warm", IMAGES, ["cat", NASTY])
    write_run(folder / "runs/warm-1", 7, seed=1, lr=10.0)
    write_linear(folder / "runs/linear", "warm", 0.75)
    main([str(folder / "runs"), "--html", str(folder / "report.html")])
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def shared_page(browser: Any, report: str) -> Iterator[Any]:
    """Afterwards: no message on the console, no error, and no request but for the page itself."""
    page = browser.new_page()
    complaints = complaints_of(page)
    requests: set[str] = set()
    page.on("request", lambda request: requests.add(request.url))
    page.goto(report)
    yield page
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {report}


def complaints_of(page: Any) -> list[str]:
    """What the browser says on its console, as it comes."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


@pytest.fixture
def page(shared_page: Any) -> Any:
    """The page as it is after loading, on a large screen in light colours."""
    shared_page.set_viewport_size({"width": 1280, "height": 900})
    shared_page.emulate_media(color_scheme="light", media="screen")
    shared_page.reload()
    drawn(shared_page)
    return shared_page


def drawn(page: Any) -> None:
    page.wait_for_function("() => document.querySelectorAll('.plot .main-svg').length > 1")


def column(page: Any, heading: str) -> list[str]:
    """The cells of a column of the results."""
    place = page.locator("#results thead th").all_text_contents().index(heading)
    rows = page.locator("#results tbody tr:visible").all()
    return [row.locator("th, td").nth(place).text_content() for row in rows]


def traces(page: Any, chart: str = CHART) -> dict[str, list[float]]:
    """The curves of a chart as they are drawn: name -> values."""
    return dict(page.eval_on_selector(f"{chart} .plot", "p => p.data.map(trace => [trace.name, trace.y])"))


def test_it_loads_from_disk_and_shows_the_numbers_of_metrics_csv(page: Any) -> None:
    for place, name in enumerate(COLUMNS):
        page.select_option(f"{CHART} select", name)
        expected = [float(f"{metric(1, epoch, place):.6g}") for epoch in range(1, 13)]
        assert traces(page)["warm"] == expected
    page.locator(f"{CHART} summary").click()
    table = page.locator(f"{CHART} table")
    heading = table.locator("th").all_text_contents()
    cells = [row.locator("td").nth(heading.index("warm")).text_content() for row in table.locator("tbody tr").all()]
    assert list(map(float, cells)) == expected


def test_a_click_on_a_heading_sorts_by_number_and_another_one_turns_the_order(page: Any) -> None:
    heading = page.get_by_role("button", name="lr", exact=True)
    for direction, order in (("ascending", ["0.03", "0.5", "10"]), ("descending", ["10", "0.5", "0.03"])):
        heading.click()
        assert page.locator("#flags tbody tr td:nth-child(2)").all_text_contents() == order
        assert page.locator("#flags th[aria-sort]").get_attribute("aria-sort") == direction
    page.get_by_role("button", name="offline").click()
    assert column(page, "offline") == ["75.0 %", "", ""]  # empty cells last


def test_the_filter_keeps_the_rows_with_all_words(page: Any) -> None:
    page.get_by_label("Filter").fill("SIMCLR warm")
    assert [name.split(" ")[0] for name in column(page, "run")] == ["warm"]
    assert page.locator("#count").text_content() == "1 of 3 rows"
    assert page.locator("#flags tbody tr:visible").count() == 1
    assert page.locator("details.run:visible").count() == 3  # two seeds and their evaluation
    page.get_by_label("Filter").fill("")
    assert len(column(page, "run")) == 3


def test_curves_of_two_runs_lie_over_each_other_and_a_value_is_shown_on_hover(page: Any) -> None:
    boxes = page.locator("#results input")
    for box in boxes.all():
        box.uncheck()
    assert traces(page) == {}
    boxes.nth(0).check()
    boxes.nth(2).check()
    assert len(traces(page)) == 3  # one row has two seeds
    assert page.locator(f"{CHART} .scatterlayer path.js-line").count() == 3
    page.locator(f"{CHART} .plot").hover()
    assert "warm" in page.locator(f"{CHART} .hoverlayer").text_content()


def test_names_are_text_in_tables_legend_and_charts(page: Any) -> None:
    name = NAMES[2]
    assert name in column(page, "run")
    assert name in page.locator("#legend").text_content()
    page.locator(f"{CHART} .plot").hover()
    assert "<script>alert(1)<" in page.locator(f"{CHART} .hoverlayer").text_content()
    assert page.locator("script").count() == 4  # the page's own, and the charts


def test_the_map_shows_an_image_under_the_pointer_and_finds_images_by_name_and_class(page: Any) -> None:
    plot = page.locator("#embedding .plot")
    plot.locator(".point").first.hover(force=True)  # the first of the first class
    image = page.locator("#map-image")
    assert image.locator("span").text_content() == f"{IMAGES[0]} · cat · cluster 1"
    assert "data:image/jpeg" in image.locator(".thumbnail").get_attribute("style")
    assert plot.locator(".legendtext").all_text_contents() == ["cat", f"{NASTY[:27]}…"]
    page.select_option("#map-colours", "cluster")
    assert plot.locator(".legendtext").all_text_contents() == ["cluster 1", "cluster 2"]
    page.mouse.move(0, 0)
    page.locator("#map-search").fill("photo 1")
    assert page.locator("#map-count").text_content() == "11 of 20 images"
    found = page.locator("#map-found button")
    assert found.nth(1).text_content() == "photo 10.png · cat · cluster 1"
    found.first.focus()
    assert image.locator("span").text_content() == found.first.text_content()
    page.locator("#map-search").fill("alert")
    assert page.locator("#map-found button").count() == 10


def test_everything_works_by_keyboard_alone(page: Any) -> None:
    def focused() -> str:
        return page.evaluate("document.activeElement.outerHTML.slice(0, 300)")

    keys = page.keyboard
    keys.press("Tab")
    keys.type("warm")
    assert len(column(page, "run")) == 1
    keys.press("Control+a")
    keys.press("Delete")
    keys.press("Tab")
    assert "scrollable" in focused()
    keys.press("Tab")
    keys.press("Enter")
    assert page.locator("#results th[aria-sort=ascending]").text_content() == "run"
    while 'type="checkbox"' not in focused():
        keys.press("Tab")
    before = len(traces(page))
    keys.press("Space")
    assert len(traces(page)) < before
    keys.press("Tab")
    keys.press("Enter")  # the name of the run opens it
    assert focused().startswith("<summary>")
    assert page.locator("details.run[open]").count() >= 1
    visited = set()
    for _ in range(40):
        keys.press("Shift+Tab")
        visited.add(page.evaluate("document.activeElement.tagName"))
    assert {"SELECT", "SUMMARY", "BUTTON", "INPUT"} <= visited


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_in_both_colour_schemes(scheme: str, page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.locator("details.run summary").first.click()
    right = (
        "Math.max(...[...document.querySelectorAll('section, .plot svg')].map(s => s.getBoundingClientRect().right))"
    )
    page.wait_for_function(f"() => {right} <= 400")  # the charts follow the width, a moment later
    page.wait_for_function("() => document.documentElement.scrollWidth <= 400")
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(ink, paper) > 7
    axis = page.eval_on_selector(f"{CHART} .xtick text", "text => getComputedStyle(text).fill")
    assert contrast(axis, paper) > 7


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2 of two colours `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        values = [int(text) / 255 for text in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_served_page_shows_a_new_epoch_within_five_seconds_and_keeps_what_was_chosen(
    browser: Any, tmp_path: Path
) -> None:
    page = browser.new_page()
    complaints = complaints_of(page)
    for number, name in enumerate(("first", "second")):
        write_run(tmp_path / name, number, epochs=3, ended=False, lr=0.1 + number)
    with serving(tmp_path) as server:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        drawn(page)
        page.locator("#results input").first.uncheck()
        page.locator("details.run summary").nth(1).click()
        page.get_by_role("button", name="lr", exact=True).click()
        page.locator("#results a").nth(1).focus()
        (tmp_path / "first/metrics.csv").write_text(metrics_text(0, 4)[:-9])  # half written
        (tmp_path / "second/metrics.csv").write_text(metrics_text(1, 4))
        page.wait_for_function("() => document.querySelector('.plot').data[0].y.length === 4")
        assert page.evaluate("UPDATE_MS") <= 2500  # below five seconds, with what the server and the browser need
        assert traces(page)["second"] == [metric(1, epoch, 0) for epoch in (1, 2, 3, 4)]
        assert page.locator("#results .state").all_text_contents() == ["epoch 3 of 12", "epoch 4 of 12"]
        assert page.locator("#results input:checked").count() == 1
        assert page.locator("details.run[open]").count() == 1
        assert page.locator("#flags th[aria-sort]").count() == 1
        assert page.evaluate("document.activeElement.textContent") == "second"
        assert complaints == []
    page.wait_for_function("() => document.querySelector('#live').textContent === 'not connected'")
    page.close()


def test_printed_in_the_dark_it_is_black_on_white(page: Any) -> None:
    page.emulate_media(color_scheme="dark", media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for selector in ("h1", f"{CHART} .xtick text"):
        ink = page.eval_on_selector(
            selector, "e => getComputedStyle(e)[e.namespaceURI.includes('svg') ? 'fill' : 'color']"
        )
        assert contrast(ink, "rgb(255, 255, 255)") > 7
    assert page.pdf().startswith(b"%PDF")
