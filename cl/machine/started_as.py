"""How this program was started, and how to start the others in the same way.

As a command of the installed package (cl-pretrain), as a script of a clone (main_contrastive.py), or as a module
(python -m cl.pretrain).
"""

import argparse
import shutil
import sys
from pathlib import Path

import cl

SCRIPTS = {"pretrain": "main_contrastive.py", "linear": "main_linear.py"}
PREFIX = "cl-"


def command_of(program: str) -> list[str]:
    """The words that start `program` (pretrain, linear, worth, ...) from the current working directory."""
    started = Path(sys.argv[0])
    if _is_command(started):
        return [_as_typed(started.with_name(PREFIX + program))]
    if program in SCRIPTS and started.name in SCRIPTS.values():
        return [_python(), str(started.with_name(SCRIPTS[program]))]
    return [_python(), "-m", f"cl.{program}"]


def shown(program: str) -> str:
    """`program` as its usage names it."""
    if _is_command(Path(sys.argv[0])):
        return PREFIX + program
    return SCRIPTS[program] if program in SCRIPTS and _module() is None else f"python -m cl.{program}"


def this_command() -> list[str]:
    """The words that start this program again."""
    module = _module()
    return [sys.executable, "-m", module] if module else [sys.executable, sys.argv[0]]


def argument_parser(program: str, description: str) -> argparse.ArgumentParser:
    """The parser of a program whose flags are not those of a run."""
    parser = argparse.ArgumentParser(prog=shown(program), description=description)
    parser.add_argument("--version", action="version", version=version())
    return parser


def version() -> str:
    return f"cl {cl.__version__}"


def _is_command(started: Path) -> bool:
    return started.name.startswith(PREFIX)


def _module() -> str | None:
    """The module of this package that `python -m` has started; None if it was something else."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec and spec.name.startswith("cl.") else None


def _as_typed(command: Path) -> str:
    """The name of a command if the shell finds this one under it, else its path."""
    found = shutil.which(command.name)
    return command.name if found and Path(found).absolute() == command.absolute() else str(command)


def _python() -> str:
    """`python` or `python3` if it is this interpreter, else its full path."""
    for name in ("python", "python3"):
        path = shutil.which(name)
        if path and Path(path).absolute() == Path(sys.executable).absolute():
            return name
    return sys.executable
