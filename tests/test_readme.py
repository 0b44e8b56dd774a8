"""Every command in README.md runs, and the output it shows is that of the program."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl import embed
from tests.conftest import ROOT, Run
from tests.pictures import plain, write_classes

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines() if line.strip()]
VARYING = "  run folder", "  typed"  # lines of the banner that depend on the clock or --dry_run
PROGRAMS = [line for line in COMMANDS if line.startswith("python main_")]


def test_every_command_is_of_a_kind_that_is_run_by_a_test_or_ci() -> None:
    kinds = (
        "python main_",
        "python -m cl.selfcheck",
        "python -m cl.embed",
        "python -m cl.report",
        "python -m cl.worth",
        "pip install ",
        "pytest",
        "git clone ",
        "bash bash_files/",
        "python -m venv ",
        ". ",
    )
    assert all(line.startswith(kinds) for line in COMMANDS), COMMANDS


def test_the_programs_and_the_uses_of_their_backbone_run_as_written(run: Run, folder: Path) -> None:
    """In order, in one folder, each for one batch."""
    assert len(PROGRAMS) >= 4
    write_classes(folder, {"my_photos": 70})
    for line in PROGRAMS:
        _, program, *flags = shlex.split(line)
        short = [] if {"--help", "--dry_run"} & set(flags) else ["--fast_dev_run"]
        code, _, err = run(program, *flags, *short)
        assert (code, err) == (0, ""), line
    plain(1).save(folder / "photo.jpg")
    (block,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["features"].shape == (1, names["backbone"].num_features)
    (line,) = [line for line in COMMANDS if line.startswith("python -m cl.embed ")]
    embed.main(shlex.split(line)[3:])
    assert len(np.load(folder / "features.npz")["paths"]) == 70


def test_the_report_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "trained_models").mkdir()
    for line in [line for line in COMMANDS if line.startswith("python -m cl.report")]:
        command, path = [sys.executable, *shlex.split(line)[1:]], os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "No run that ended.\n", ""), line


def test_the_scripts_run_as_written_up_to_the_missing_data(tmp_path: Path) -> None:
    for line in [line for line in COMMANDS if line.startswith("bash bash_files/")]:
        command = ["bash", "-c", f"{line} --data_folder /nowhere"]  # also where /datasets exists
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2, line
        assert done.stderr.startswith("error: --data_folder: got /nowhere"), done.stderr


def test_ci_runs_the_readmes_install_and_test_commands() -> None:
    script = (ROOT / ".ci/run").read_text()
    for line in ("pip install -r requirements-dev.txt && pytest", "python main_contrastive.py digits resnet18"):
        assert line in README
        for part in line.split(" && "):
            assert part in script, part


def test_the_shown_banner_is_that_of_the_program(tmp_path: Path) -> None:
    """The banner of the quick start, line for line, without lines that depend on the machine."""
    shown = next(block for language, block in BLOCKS if language == "text" and block.startswith("cl "))
    command = [sys.executable, str(ROOT / "main_contrastive.py"), "digits", "resnet18", "--dry_run"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    banner = shown[: shown.index("\nepoch ")].splitlines()
    assert len(banner) == 12
    stable = [line for line in banner[1:] if not line.startswith(VARYING)]
    assert len(stable) > 8
    printed = out.splitlines()
    assert printed[0].split(" [")[0] == banner[0].split(" [")[0]
    assert stable == [line for line in printed[1:12] if not line.startswith(VARYING)]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_links_point_to_existing_files(link: str) -> None:
    assert (ROOT / link).exists()
