"""The notebook runs as it stands, in an empty folder."""

import json
import runpy
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.conftest import ROOT

CELLS = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_is_the_one_that_docs_write_tour_writes_and_every_cell_ran() -> None:
    written = runpy.run_path(str(ROOT / "docs/write_tour.py"))["CELLS"]
    assert ["".join(cell["source"]) for cell in CELLS] == written
    numbers = [cell["execution_count"] for cell in CELLS if cell["cell_type"] == "code"]
    assert numbers == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CELLS for output in cell.get("outputs", [])]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result", "display_data"}  # no error
    assert "/tmp" not in json.dumps(CELLS)


@pytest.mark.slow
def test_the_notebook_finds_neighbours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib.use("agg")
    names: dict[str, Any] = {}
    for code in CODE:
        exec(code, names)
    assert (folder / "neighbours.png").stat().st_size > 5000
    assert names["same"] > 0.7
    assert "of the neighbours show the same digit" in capsys.readouterr().out
