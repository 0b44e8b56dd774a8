"""The README is short, and what it shows is that of the program; tests/test_docs.py runs its commands."""

import re
from pathlib import Path

from cl.config.methods import METHODS
from tests.conftest import ROOT, Run
from tests.test_docs import PAGES, blocks

README = PAGES["README.md"].read_text()
(SHOWN,) = blocks("README.md", "text")
QUICK_START = blocks("quick_start.md", "text")[0]
VARYING = "  run folder", "  typed"  # lines of the banner that depend on the clock or on the flags of the test


def test_the_readme_has_at_most_200_lines_and_begins_with_a_sentence_and_a_picture() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    title, sentence, picture = [part for part in README.split("\n\n") if part.strip()][:3]
    assert title == "# cl"
    assert sentence.count(". ") == 0
    assert picture.startswith("![")


def test_one_command_sets_up_and_runs_the_main_program_and_one_passes_the_tests_and_ci_runs_both() -> None:
    script = (ROOT / ".ci/run").read_text()
    main = "pip install -r requirements.txt && python main_contrastive.py digits resnet18"
    tests = "pip install -r requirements-dev.txt && pytest"
    commands = [line for block in blocks("README.md", "bash") for line in block.splitlines()]
    assert [line for line in commands if "pip install" in line or "pytest" in line] == [main, tests]
    assert (ROOT / "requirements-dev.txt").read_text().startswith("-r requirements.txt\n")
    for part in (*main.split(" && ")[1:], *tests.split(" && ")):
        assert part in script, part


def test_every_method_is_in_the_table() -> None:
    section = README.split("\n## Methods\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, flags=re.M)
    assert len(rows) == 12
    assert set(METHODS) - set(rows) == {"distill"}
    assert "`--method distill`" in section


def test_the_readmes_output_has_ten_lines_of_the_quick_starts() -> None:
    lines = SHOWN.splitlines()
    assert len(lines) == 10
    assert [line for line in lines if line not in QUICK_START.splitlines()] == []


def test_the_shown_banner_is_that_of_the_program(run: Run, folder: Path) -> None:
    """The banner of the quick start, line for line, without lines that depend on the machine."""
    code, out, _ = run("main_contrastive.py", "digits", "resnet18", "--width", "4", "--dry_run")
    assert code == 0
    banner = QUICK_START[: QUICK_START.index("\nepoch ")].splitlines()
    assert len(banner) == 12
    stable = [line for line in banner[1:] if not line.startswith(VARYING)]
    assert len(stable) > 8
    printed = out.splitlines()
    assert printed[0].split(" [")[0] == banner[0].split(" [")[0]
    assert stable == [line for line in printed[1:12] if not line.startswith(VARYING)]
