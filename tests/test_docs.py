"""What README and docs name is there: flags, messages, files; and the commands of docs run."""

import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pytest

from cl.config.flags import fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain
from tests.conftest import ROOT, Run

PAGES = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
DOCS = [name for name in PAGES if name != "README.md"]
PROGRAMS = Path("bench"), Path("cl"), Path("tests")  # whose modules have flags of their own


def flags_of_the_programs() -> set[str]:
    parts = {part for program in (Pretrain, Linear) for part in get_type_hints(program).values()}
    declared = [each for part in {*parts, *METHODS.values()} for each in fields_of(part)]
    spellings = {name for each in declared for name in (f"--{each.name}", *each.flag.aliases, *each.flag.shorthands)}
    return spellings | {f"--no_{name.removeprefix('--')}" for name in spellings} | {"--help"}


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGES[page].read_text(), flags=re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_is_named_exists(page: str) -> None:
    """Of main_contrastive, main_linear, or of a module with flags of its own."""
    others = "".join(path.read_text() for folder in PROGRAMS for path in (ROOT / folder).rglob("*.py"))
    text = re.sub(r"```(python|text)\n.*?```", "", PAGES[page].read_text(), flags=re.S)
    named = set(re.findall(r"(?<![\w-])--[a-z]\w*", text))
    unknown = {flag for flag in named - flags_of_the_programs() if f'"{flag}"' not in others}
    assert unknown <= ({"--sim_weight"} if page == "adding_a_method.md" else set()), unknown


def test_every_message_of_the_troubleshooting_page_is_one_of_the_programs() -> None:
    source = "".join(path.read_text() for path in [*(ROOT / "cl").rglob("*.py"), *ROOT.glob("main_*.py")])
    rows = [line.split(" | ")[0] for line in PAGES["troubleshooting.md"].read_text().splitlines()]
    messages = [message for row in rows if row.startswith("| ") for message in re.findall("`([^`]+)`", row)]
    assert len(messages) > 20
    assert [message for message in messages if message not in source and not (ROOT / message).exists()] == []


@pytest.mark.parametrize("page", DOCS)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page].read_text()):
        assert (PAGES[page].parent / link).exists(), link


@pytest.mark.parametrize("page", sorted(set(DOCS) - {"adding_a_method.md"}))  # that one has a test of its own
def test_the_commands_run_as_written(page: str, run: Run, folder: Path) -> None:
    """One after the other in one folder, each for one batch; benches take too long."""
    for line in commands(page):
        _, program, *flags = shlex.split(line)
        if program.startswith("bench/") or program == "-m":
            continue
        goes_on = "--resume_training_from" in flags and flags[-1] != "auto"  # with the flags of its run
        code, _, err = run(program, *flags, *([] if goes_on else ["--fast_dev_run"]))
        assert (code, err) == (0, ""), line
