"""Sphinx: `sphinx-build -W docs OUT` builds this documentation, with nothing that a reader's browser would fetch."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import cl  # noqa: E402

project = "cl"
version = release = cl.__version__
copyright = "the cl authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"cl {release}"
html_show_sphinx = False
exclude_patterns = ["_build"]
nitpicky = True
myst_heading_anchors = 4  # links to headings, as on GitHub
nb_execution_mode = "off"  # the notebook keeps its outputs; tests/test_tour.py runs it
autodoc_typehints = "description"
nitpick_ignore_regex = [("py:.*", ".*")]  # types of torch and Python have pages of their own, elsewhere

TEXTS = {  # pages that begin with a file above this folder
    "index": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}


def add_text(app: Any, page: str, source: list[str]) -> None:
    """Put the README and the changelog into their pages, with links as seen from this folder."""
    if page in TEXTS:
        text = (ROOT / TEXTS[page]).read_text()
        text = text.replace("](docs/", "](").replace("](CHANGELOG.md)", "](changelog.md)")
        text = text.replace("](CONTRIBUTING.md)", "](contributing.md)")
        text = re.sub(
            r"\[([^\]]+)\]\((?!http|#|images/|[a-z_]+\.(?:md|ipynb))[^)]+\)", r"\1", text
        )  # not a page of the site
        source[0] = text + source[0]


def keep_as_written(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text, with formulas and tables of shapes."""
    lines[:] = ["::", "", *(f"    {line}" for line in lines), ""]


def setup(app: Any) -> None:
    app.connect("source-read", add_text)
    app.connect("autodoc-process-docstring", keep_as_written)
