"""Flags, messages and files named in README and docs exist, and the commands in docs run."""

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
FOLDERS = Path("bench"), Path("cl"), Path("tests")  # some of their modules have their own flags


def program_flags() -> set[str]:
    parts = {part for program in (Pretrain, Linear) for part in get_type_hints(program).values()}
    fields = [field for part in {*parts, *METHODS.values()} for field in fields_of(part)]
    spellings = {name for field in fields for name in (f"--{field.name}", *field.flag.aliases, *field.flag.shorthands)}
    return spellings | {f"--no_{name.removeprefix('--')}" for name in spellings} | {"--help"}


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGES[page].read_text(), flags=re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_in_the_docs_exists(page: str) -> None:
    """In main_contrastive, main_linear, or a module with its own flags."""
    sources = "".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    text = re.sub(r"```(python|text)\n.*?```", "", PAGES[page].read_text(), flags=re.S)
    mentioned = set(re.findall(r"(?<![\w-])--[a-z]\w*", text))
    unknown = {flag for flag in mentioned - program_flags() if f'"{flag}"' not in sources}
    assert not unknown


def test_every_message_on_the_troubleshooting_page_exists() -> None:
    source = "".join(path.read_text() for path in [*(ROOT / "cl").rglob("*.py"), *ROOT.glob("main_*.py")])
    rows = [line.split(" | ")[0] for line in PAGES["troubleshooting.md"].read_text().splitlines()]
    messages = [message for row in rows if row.startswith("| ") for message in re.findall("`([^`]+)`", row)]
    assert len(messages) > 20
    assert [message for message in messages if message not in source and not (ROOT / message).exists()] == []


@pytest.mark.parametrize("page", DOCS)
def test_links_point_to_existing_files(page: str) -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page].read_text()):
        assert (PAGES[page].parent / link).exists(), link


# Those of two pages are run by test_adding_a_method and test_your_images.
@pytest.mark.parametrize("page", sorted(set(DOCS) - {"adding_a_method.md", "your_images.md"}))
def test_commands_run_as_written(page: str, run: Run, folder: Path) -> None:
    """In order, in one folder, each for one batch; benchmarks are skipped because they take too long."""
    for line in commands(page):
        _, program, *flags = shlex.split(line)
        if program.startswith("bench/") or program == "-m":
            continue
        resumes = "--resume_training_from" in flags and flags[-1] != "auto"  # takes no other flags than its run
        code, _, err = run(program, *flags, *([] if resumes else ["--fast_dev_run"]))
        assert (code, err) == (0, ""), line
