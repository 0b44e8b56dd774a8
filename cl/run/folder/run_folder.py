"""The run folder: everything that a run leaves behind, and how it came about."""

import dataclasses
import json
import os
import platform
import shlex
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cl.cli import Resolved
from cl.config.programs import Linear
from cl.config.run import DRY_RUN, LATEST
from cl.errors import UserError
from cl.run.folder.atomic_files import as_json, write_atomically

SCHEMA = 1  # of config.json and of the config inside checkpoints
PACKAGES = ("torchvision", "pytorch-lightning", "numpy")


def open_run_folder(resolved: Resolved[Any], kind: str) -> Path:
    """Make `<output_dir>/<run id>` with its config.json; a dry run has one folder that the next one overwrites.

    A run that goes on does so in the folder that it has.
    """
    run = resolved.config.run
    parent = Path(run.output_dir)
    name = run.run_id or run.new_id(kind, resolved.config.data.dataset)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if (parent / LATEST).is_dir() and not (parent / LATEST).is_symlink():
            raise UserError(
                f"--output_dir: got {parent}, whose {LATEST} is a folder of yours; expected a link or nothing"
            )
        if run.dry_run:
            folder = parent / DRY_RUN
        elif resolved.resume:
            folder = resolved.resume.folder
        else:
            folder = _new_folder(parent, name, fixed=run.run_id is not None)
        folder.mkdir(exist_ok=True)
        _write_config(folder, resolved)
    except OSError as error:
        raise UserError(f"--output_dir: got {parent}, expected a folder to write to ({error.strerror})") from None
    return folder


def _new_folder(parent: Path, name: str, fixed: bool) -> Path:
    """A folder that was not there, for an old run is never touched: `name`, or name-2, name-3 unless it is `fixed`."""
    folder = parent / name
    number = 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if fixed:
                raise UserError(
                    f"--run_id: got {name}, expected a new name: {folder} is there already; "
                    "--resume_training_from auto goes on with it"
                ) from None
            number += 1
            folder = parent / f"{name}-{number}"


def point_latest(folder: Path) -> None:
    """Let `latest` beside the run folder point to it, in one step."""
    beside = folder.parent / f".latest-{os.getpid()}"
    beside.symlink_to(folder.name)
    os.replace(beside, folder.parent / LATEST)


def _write_config(folder: Path, resolved: Resolved[Any]) -> None:
    """config.json: every value with its origin, the command, the commit and the versions."""
    place = folder / "config.json"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    start: dict[str, Any] = {
        "argv": shlex.join(resolved.argv),
        "commit": _commit(),
        "versions": versions | {name: metadata.version(name) for name in PACKAGES},
    }
    if resolved.resume and resolved.resume.begun and not resolved.config.run.dry_run:
        begun = json.loads(place.read_text())
        begun |= {"resumed": [*begun.get("resumed", []), start]}
        return write_atomically(place, lambda file: file.write(as_json(begun)))
    about: dict[str, Any] = {
        "schema": SCHEMA,
        **start,
        "config": {
            part: {name: {"value": value, "origin": resolved.origins[name]} for name, value in values.items()}
            for part, values in dataclasses.asdict(resolved.config).items()
        },
    }
    if isinstance(resolved.config, Linear):  # where `latest` pointed to is not to be found out later
        named = resolved.config.linear.pretrained_feature_extractor
        about["pretrained"] = str(Path(named or "").resolve())
    write_atomically(place, lambda file: file.write(as_json(about)))


def plain_values(resolved: Resolved[Any]) -> dict[str, Any]:
    """Every flag's value by name."""
    return {name: value for part in dataclasses.asdict(resolved.config).values() for name, value in part.items()}


def _commit() -> str | None:
    """The commit of this source tree, with "+" if it was changed since; None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
