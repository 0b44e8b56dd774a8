"""The run folder and its config.json."""

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
from cl.config.backbone import is_path
from cl.config.programs import Linear, Pretrain
from cl.config.run import DRY_RUN, LATEST
from cl.data.images import Splits
from cl.errors import UserError
from cl.machine.cores import processor_name, usable_cores
from cl.run.folder.atomic_files import as_json, write_atomically

SCHEMA = 1  # of config.json and of the config inside checkpoints
PACKAGES = ("torchvision", "pytorch-lightning", "numpy")


def open_run_folder(resolved: Resolved[Any], kind: str, splits: Splits, devices: str) -> Path:
    """Create `<output_dir>/<run id>` with its config.json.

    A resumed run keeps its folder; all dry runs share one folder and overwrite it.
    """
    run = resolved.config.run
    parent = Path(run.output_dir)
    name = run.run_id or run.new_id(kind, resolved.config.data.dataset)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if (parent / LATEST).is_dir() and not (parent / LATEST).is_symlink():
            raise UserError(f"--output_dir: got {parent}, where {LATEST} is a folder; expected a symlink or nothing")
        if run.dry_run:
            folder = parent / DRY_RUN
        elif resolved.resume:
            folder = resolved.resume.folder
        else:
            folder = _new_folder(parent, name, fixed=run.run_id is not None)
        folder.mkdir(exist_ok=True)
        _write_config(folder, resolved, splits, devices)
    except OSError as error:
        raise UserError(f"--output_dir: got {parent}, expected a writable folder ({error.strerror})") from None
    return folder


def _new_folder(parent: Path, name: str, fixed: bool) -> Path:
    """Create folder `name`, or if it exists and is not `fixed`, name-2, name-3; existing folders are not touched."""
    folder = parent / name
    number = 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if fixed:
                raise UserError(
                    f"--run_id: got {name}, expected a new name: {folder} already exists; "
                    "--resume_training_from auto resumes it"
                ) from None
            number += 1
            folder = parent / f"{name}-{number}"


def point_latest(folder: Path) -> None:
    """Point the symlink `latest` next to the run folder to it, atomically; OSError where there are no symlinks."""
    temporary = folder.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)  # left by a killed process of the same number
    temporary.symlink_to(folder.name)
    os.replace(temporary, folder.parent / LATEST)


def _write_config(folder: Path, resolved: Resolved[Any], splits: Splits, devices: str) -> None:
    """Write config.json: every value with its origin, the normalisation, the command, the machine and the versions."""
    path = folder / "config.json"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    launch: dict[str, Any] = {
        "argv": shlex.join(resolved.argv),
        "machine": f"{devices}; {usable_cores()} cores of {processor_name()}, {platform.system()}",
        "commit": source_commit(),
        "versions": versions | {name: metadata.version(name) for name in PACKAGES},
    }
    if resolved.resume and resolved.resume.begun and not resolved.config.run.dry_run:
        content = json.loads(path.read_text())
        content["resumed"] = [*content.get("resumed", []), launch]
        return write_atomically(path, lambda file: file.write(as_json(content)))
    content = {
        "schema": SCHEMA,
        **launch,
        "config": {
            part: {name: {"value": value, "origin": resolved.origins[name]} for name, value in values.items()}
            for part, values in dataclasses.asdict(resolved.config).items()
        },
        "normalisation": {"mean": splits.norm[0], "std": splits.norm[1], "origin": splits.norm_origin},
    }
    if isinstance(resolved.config, Linear):  # resolved now, because `latest` may point elsewhere later
        pretrained = resolved.config.linear.pretrained_feature_extractor
        content["pretrained"] = str(Path(pretrained or "").resolve())
    if isinstance(resolved.config, Pretrain) and is_path(resolved.config.backbone.init_from):
        content["started_from"] = str(Path(resolved.config.backbone.init_from or "").resolve())  # likewise
    write_atomically(path, lambda file: file.write(as_json(content)))


def plain_values(resolved: Resolved[Any]) -> dict[str, Any]:
    """Every flag's value by name."""
    return {name: value for part in dataclasses.asdict(resolved.config).values() for name, value in part.items()}


def source_commit() -> str | None:
    """The commit of this source tree, with "+" if it has uncommitted changes; None outside a git repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
