"""Make the page of some runs, and a picture of it: python bench/report_picture.py FOLDER PICTURE.png [--dark]

Needs Chromium and the packages plotly and playwright. docs/report.md has the commands of the runs that it shows.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cl.report import main as report

WIDTH = 1280
POINT = 110  # of the map, under the pointer


def take_picture(address: str, path: Path, scheme: str) -> None:
    """Tables, curves under the pointer, and the map with the image of a point."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as session:
        browser = session.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme=scheme)
        page.goto(address)
        page.wait_for_function("() => document.querySelectorAll('.plot .main-svg').length > 1")
        bottom = page.evaluate("document.querySelector('#embedding').getBoundingClientRect().bottom + scrollY")
        page.set_viewport_size({"width": WIDTH, "height": int(bottom) + 20})  # a longer screenshot loses the pointer
        page.locator("#embedding .point").nth(POINT).hover(force=True)
        page.wait_for_function("() => !document.querySelector('#map-image').hidden")
        page.screenshot(path=path)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of runs")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        page = Path(temporary) / "report.html"
        report([str(args.folder), "--html", str(page)])
        take_picture(page.as_uri(), args.picture, "dark" if args.dark else "light")
    with Image.open(args.picture) as picture:  # a third of the size: a page has few colours
        picture.convert("RGB").quantize(256).save(args.picture, optimize=True)


if __name__ == "__main__":
    main()
