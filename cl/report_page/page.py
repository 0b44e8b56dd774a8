"""report.html: one file with the runs of a folder, to be opened, sorted and sent. It asks for nothing from anywhere."""

import base64
import gzip
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cl.errors import UserError, one_line
from cl.report_page.embedding import read_embedding, shared_images
from cl.report_page.measured import Measured
from cl.report_page.pictures import CAPTIONS, pictures_of
from cl.report_page.rows import FACTS, Line, differing_flags, flag_cells, lines_of
from cl.report_page.runs import Run
from cl.run.folder.atomic_files import write_atomically

COLUMNS = (*FACTS, "online", "kNN", "offline", "time", "images/s")
NUMBERS = COLUMNS[3:]  # right-aligned
SCRIPTS = ("curves.js", "embedding.js", "page.js")
SIZE = 9_500_000  # bytes: pictures are made smaller until the page has this size
PICTURES_OF_A_RUN = 4  # views, neighbours, map or grid, worth
PICTURE = 150_000  # characters of one picture, however few runs there are


def write_page(runs: Sequence[Run], folders: Sequence[Path], path: Path) -> None:
    """Write the page of `runs`, which were found in `folders`, to `path`, whole or not at all."""
    text = page_text(runs, folders, chart_library("--html"))
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"--html: got {path}, expected a file to write to ({error.strerror})") from None


@cache
def chart_library(flag: str) -> str:
    """plotly.js as gzip in base64, a third of its size; the browser unpacks it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError(
            f"{flag}: plotly, which draws the charts, is not installed; expected the extra report: pip install plotly"
        ) from None
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def page_text(runs: Sequence[Run], folders: Sequence[Path], charts: str, served: bool = False) -> str:
    """The page as HTML, in which every text from a run is text; a `served` page updates itself."""
    measured = [Measured.read(run, key) for run, key in zip(runs, unique_names(runs), strict=True)]
    lines = lines_of(measured)
    names = differing_flags(lines)
    data = _template("{{ data | tojson }}").render(data=printable(data_of(lines)))
    cells = {line.key: flag_cells(line, names) for line in lines}
    limit = min(PICTURE, max(0, SIZE - len(charts) - len(data)) // (PICTURES_OF_A_RUN * max(1, len(runs))))
    return _template(_asset("page.html")).render(
        title=", ".join(folder.resolve().name for folder in folders),
        columns=COLUMNS,
        numbers=NUMBERS,
        lines=lines,
        flags={name: any(row[place].is_number for row in cells.values()) for place, name in enumerate(names)},
        flag_cells=cells,
        pictures={each.key: pictures_of(each.run.folder, limit) for each in measured},
        captions=CAPTIONS,
        data=Markup(data),
        style=_asset("page.css"),
        scripts=[_asset(name) for name in SCRIPTS],
        charts=charts,
        served=served,
    )


def unique_names(runs: Sequence[Run]) -> list[str]:
    """The names of the run folders; of two runs with the same name the second one gets a number."""
    seen: dict[str, int] = {}
    names = []
    for run in runs:
        name = run.folder.name
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def data_of(lines: Sequence[Line]) -> dict[str, Any]:
    """What the script of the page draws."""
    found = [(line, each, read_embedding(each.run.folder)) for line in lines for each in line.runs]
    maps = [{"key": each.key, "line": line.key, **points} for line, each, points in found if points]
    embeddings, images = shared_images(maps)
    return {
        "lines": [
            {
                "key": line.key,
                "runs": [
                    {"key": each.key, "evaluation": bool(each.run.evaluates), "columns": each.columns}
                    for each in line.runs
                ],
            }
            for line in lines
        ],
        "embeddings": embeddings,
        "images": images,
    }


def printable(value: Any) -> Any:
    """Lists and dictionaries of texts and numbers, each text on one line and without control characters."""
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable(each) for each in value]
    return one_line(value) if isinstance(value, str) else value


def _template(text: str) -> Any:
    """A template whose values are escaped, on one line each."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(text)


def _asset(name: str) -> Markup:
    return Markup((files("cl.report_page") / "assets" / name).read_text())
