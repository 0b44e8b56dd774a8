"""Every script in bash_files/ gives the programs flags that they know, and "$@" wins."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from cl.cli import parse
from cl.config.programs import Linear, Pretrain
from tests.conftest import ROOT
from tests.test_refusals import SEED_LINEAR, SEED_PRETRAIN

SCRIPTS = sorted((ROOT / "bash_files").rglob("*.sh"))


def call(script: Path, folder: Path, *extra: str) -> list[str]:
    """The command that a script runs, caught by a python3 that prints it."""
    python = folder / "bin/python3"
    python.parent.mkdir(exist_ok=True)
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(script), *extra], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_parses_from_any_folder_and_takes_flags_at_its_end(script: Path, tmp_path: Path) -> None:
    program, *argv = call(script, tmp_path, "--epochs", "3", "--devices", "1", "--accelerator", "cpu")
    assert (tmp_path / program).exists()
    config = parse(Pretrain if program.endswith("main_contrastive.py") else Linear, argv).config
    assert (config.run.epochs, config.device.devices, config.device.gpus) == (3, 1, None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_stops_at_the_first_error(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith('"$@"')
    assert os.access(script, os.X_OK)


def test_the_two_scripts_are_the_commands_that_users_know(tmp_path: Path) -> None:
    assert call(ROOT / "bash_files/run_contrastive.sh", tmp_path)[1:] == SEED_PRETRAIN
    assert call(ROOT / "bash_files/run_linear.sh", tmp_path)[1:] == SEED_LINEAR


def test_a_script_really_starts_its_program_and_passes_on_its_exit_code(tmp_path: Path) -> None:
    command = shlex.split(f"bash {ROOT}/bash_files/run_contrastive.sh --data_folder /nowhere --devices 1")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --data_folder: got /nowhere")
