"""The distribution: its commands, what it depends on, and messages about what is not installed."""

import importlib
import re
import subprocess
import sys
import tomllib

import pytest

import cl
from cl.cli import parse
from cl.config.programs import Linear
from cl.errors import UserError
from cl.machine import completion, extras, started_as
from tests.conftest import ROOT, Run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
COMMANDS = {"cl-pretrain", "cl-linear", "cl-embed", "cl-report", "cl-worth", "cl-selfcheck"}
CARD = {"torch", "torchvision", "pytorch-lightning", "nvidia-dali-cuda130", "wandb", "einops", "tqdm"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=!;\s\[]", line)[0] for line in requirements}


def requirements(file: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return [line for line in lines if line]


def same(line: str) -> str:
    return line.replace("'", '"').replace(" ", "")


def test_every_command_calls_a_function_without_arguments() -> None:
    assert set(PROJECT["scripts"]) == COMMANDS
    for target in PROJECT["scripts"].values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_package_leaves_dali_and_wandb_to_extras_and_the_requirements_have_them() -> None:
    assert not names(PROJECT["dependencies"]) & {"wandb", "nvidia-dali-cuda130"}
    installed = PROJECT["dependencies"] + EXTRAS["dali"] + EXTRAS["wandb"]
    assert set(map(same, requirements("requirements.txt"))) == set(map(same, installed))
    assert names(requirements("requirements.txt")) >= CARD


def test_all_extras_of_users_are_in_all_and_the_development_has_those_that_it_tests() -> None:
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"\w+", everything.split("[")[1])) == set(EXTRAS) - {"all", "docs"}
    wanted = EXTRAS["docs"] + EXTRAS["tiff"] + EXTRAS["completion"]
    assert names(wanted) <= names(requirements("requirements-dev.txt"))
    assert PROJECT["name"] == extras.DISTRIBUTION


@pytest.mark.parametrize(
    ("started", "found", "expected"),
    [
        ("/venv/bin/cl-pretrain", "/venv/bin/cl-linear", ["cl-linear"]),
        ("/venv/bin/cl-pretrain", "/usr/bin/cl-linear", ["/venv/bin/cl-linear"]),
        ("/venv/bin/cl-pretrain", None, ["/venv/bin/cl-linear"]),
        ("../main_contrastive.py", sys.executable, ["python", "../main_linear.py"]),
        ("main_contrastive.py", None, [sys.executable, "main_linear.py"]),
    ],
)
def test_the_next_command_is_started_as_this_one_was(
    started: str, found: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr("shutil.which", lambda name: found)
    assert started_as.command_of("linear") == expected
    assert started_as.command_of("worth")[-1].endswith("cl-worth" if "cl-" in started else "cl.worth")


def test_a_module_names_modules_and_starts_itself_as_one() -> None:
    code = (
        "import sys\nfrom unittest import mock\nfrom cl.machine import started_as\n"
        "spec = mock.Mock()\nspec.name = 'cl.pretrain'\nsys.modules['__main__'].__spec__ = spec\n"
        "print(started_as.command_of('linear')[1:], started_as.shown('linear'), started_as.this_command()[1:])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "['-m', 'cl.linear'] python -m cl.linear ['-m', 'cl.pretrain']\n"


@pytest.mark.parametrize("program", ["main_contrastive.py", "main_linear.py"])
def test_the_version_is_shown_whatever_else_is_typed(program: str, run: Run) -> None:
    assert run(program, "--version") == (0, f"cl {cl.__version__}\n", "")
    assert run(program, "digits", "--no_such_flag", "--version")[:2] == (0, f"cl {cl.__version__}\n")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_completes_flags_and_values(shell: str, run: Run) -> None:
    code, out, err = run("main_contrastive.py", "--print_completion", shell)
    assert (code, err) == (0, "")
    for word in ("--temperature", "barlow_twins", "imagenet100"):
        assert word.removeprefix("--") in out


def test_completion_without_shtab_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(UserError, match=r"--print_completion: got zsh, but shtab .*pretraining\[completion"):
        parse(Linear, ["--print_completion=zsh"])


def test_the_scripts_of_a_clone_are_thin_and_their_stages_fit_on_a_screen() -> None:
    for script, module in (("main_contrastive.py", "pretrain"), ("main_linear.py", "linear")):
        assert len((ROOT / script).read_text().splitlines()) < 20
        assert len((ROOT / "cl" / f"{module}.py").read_text().splitlines()) <= 80
        assert f"from cl.{module} import main" in (ROOT / script).read_text()
