"""Flags, messages and files named in README and docs exist, and the commands in docs run."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from cl import embed, errors, report
from cl.config.flags import fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain
from tests.conftest import ROOT, Run
from tests.pictures import plain, write_classes

TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = {path.name: path for path in [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]}
OTHER_TESTS = {"adding_a_method.md", "your_images.md", "weights.md"}  # run by tests of their own, as written
NOT_RUN = {  # beginnings of commands that this file does not run, and why
    "pip install ": "CI does",
    "pytest": "CI does",
    "python -m venv ": "CI does",
    ". .venv/": "CI does",
    "python bench/": "takes minutes to hours and needs data; tests/test_bench.py runs small ones",
    "python -m cl.selfcheck": "takes a minute; tests/test_adding_a_method.py runs it",
    "python -m cl.data.imagenet_val ": "needs ImageNet; tests/test_walk.py runs it on a few images",
    "python -m cl.report trained_models --serve": "serves until Ctrl-C; tests/test_report_serve.py does it",
    "python -m cl.worth ": "tests/test_worth.py runs it, and CI on the quick start",
    "bash bash_files/": "needs ImageNet; run up to the missing data below",
}
MODULES = {"cl.embed": embed.main, "cl.report": report.main}
NARROW = ["--width", "4"]
FOLDERS = Path("bench"), Path("cl"), Path("tests")  # some of their modules have their own flags


def program_flags() -> set[str]:
    parts = {part for program in (Pretrain, Linear) for part in get_type_hints(program).values()}
    fields = [field for part in {*parts, *METHODS.values()} for field in fields_of(part)]
    spellings = {name for field in fields for name in (f"--{field.name}", *field.flag.aliases, *field.flag.shorthands)}
    return spellings | {f"--no_{name.removeprefix('--')}" for name in spellings} | {"--help"}


def blocks(page: str, language: str, section: str = "") -> list[str]:
    """The code blocks of a page, or of one of its sections."""
    text = PAGES[page].read_text()
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def commands(page: str, section: str = "") -> list[str]:
    lines = [line for block in blocks(page, "bash", section) for line in block.splitlines() if line.strip()]
    return [command for line in lines for command in line.split(" && ")]


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


def test_the_page_of_flags_is_that_of_the_declarations() -> None:
    """`python docs/write_flags.py` writes it anew."""
    written = runpy.run_path(str(ROOT / "docs/write_flags.py"))["flags_page"]()
    assert written == PAGES["flags.md"].read_text()


def test_every_page_is_in_the_table_of_contents_of_the_site() -> None:
    listed = re.findall(r"^[a-z_]+$", PAGES["index.md"].read_text(), flags=re.M)
    pages = {name.removesuffix(".md") for name in PAGES if name not in (*TOP, "index.md")}
    assert sorted(listed) == sorted({*pages, "tour"})


def test_the_table_of_exit_codes_has_all_of_them() -> None:
    table = PAGES["reliability.md"].read_text().split("## Exit codes")[1].split("##")[0]
    codes = re.findall(r"^\| (\d+) \|", table, flags=re.M)
    assert [*map(int, codes)] == [0, 1, 2, errors.NOT_FINITE, errors.NOT_WRITTEN, errors.RESUMABLE, errors.INTERRUPTED]


NOT_MEASURED = {  # published, settings, guarantees
    ("docs/evaluation.md", "Was it worth it?"),
    ("docs/recipes.md", "Recipes"),
    ("docs/reliability.md", "Other processes"),
    ("docs/troubleshooting.md", "Warnings in the banner"),
}


def test_every_measured_figure_names_the_commit_and_the_command_that_made_it() -> None:
    evidence = runpy.run_path(str(ROOT / ".ci/evidence.py"))
    assert set(evidence["unmarked"]()) == NOT_MEASURED
    measured = list(evidence["measured"]())
    assert len(measured) > 20
    assert [path for each in measured for path in each.code if not (ROOT / path).exists()] == []
    complete = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True)
    if complete.stdout.strip() == "false":
        assert min(map(evidence["commits_since"], measured)) >= 0


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_existing_files(page: str) -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page].read_text()):
        assert (PAGES[page].parent / link).exists(), link


@pytest.mark.parametrize("page", sorted(set(PAGES) - OTHER_TESTS))
def test_commands_run_as_written(
    page: str, run: Run, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one folder, each for one batch of a narrow network; then the Python code."""
    lines = [line for line in commands(page) if not line.startswith(tuple(NOT_RUN))]
    if any("my_photos" in line for line in lines):
        write_classes(folder / "my_photos", {"a": 70})
    for line in lines:
        if "trained_models" in line and not Path("trained_models/latest").exists():
            assert run("main_contrastive.py", "digits", "resnet18", *NARROW, "--max_steps", "1")[0] == 0
        _, program, *flags = shlex.split(line)
        if program == "-m":
            monkeypatch.setattr(sys, "argv", [line, *flags[1:]])
            MODULES[flags[0]](flags[1:])
            assert capsys.readouterr().err == "", line
        else:
            code, _, err = run(program, *flags, *shortened(program, flags))
            assert (code, err) == (0, ""), line
    for block in [block for block in blocks(page, "python") if "load_backbone" in block]:
        plain(1).save(folder / "photo.jpg")
        names: dict[str, Any] = {}
        exec(block, names)
        assert names["features"].shape == (1, names["backbone"].num_features)
    if "--out features.npz" in " ".join(lines):
        assert len(np.load(folder / "features.npz")["paths"]) == 70


def shortened(program: str, flags: list[str]) -> list[str]:
    """Flags that keep a command short."""
    if {"--help", "--dry_run"} & set(flags):
        return []
    if "--resume_training_from" in flags and flags[-1] != "auto":  # takes no other flags than its run
        return []
    narrow = program == "main_contrastive.py" and "resnet18" in flags and "--width" not in flags
    return ["--fast_dev_run", *(NARROW if narrow else [])]


@pytest.mark.parametrize("page", sorted(set(PAGES) - OTHER_TESTS))
def test_scripts_run_as_written_up_to_the_missing_data(page: str, tmp_path: Path) -> None:
    for line in [line for line in commands(page) if line.startswith("bash bash_files/")]:
        command = ["bash", "-c", f"{line} --data_folder /nowhere"]  # also where /datasets exists
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2, line
        assert done.stderr.startswith("error: --data_folder: got /nowhere"), done.stderr
