"""`--resume_training_from`: which run goes on, and with which config: that of its config.json, under what is typed."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl.config.flags import Field, as_typed
from cl.errors import UserError

LAST = "last.ckpt"  # the newest checkpoint of a run folder
PREVIOUS = "previous.ckpt"  # the one before it
SUMMARY = "summary.json"  # written last of all: who has it is finished
AUTO = "auto"
FLAG = "--resume_training_from"


@dataclass(frozen=True)
class Resume:
    """A run that goes on, or, under `auto`, one that may not have begun yet."""

    folder: Path
    file: Path | None = None  # a checkpoint that was named; else the newest one that is whole
    auto: bool = False
    begun: bool = True  # there is a checkpoint, and so the run's own config
    values: Mapping[str, Any] = field(default_factory=dict)  # by field name
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return (self.folder / SUMMARY).is_file()

    def layers(self, typed: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, dict[str, Any]]:
        """The run's values by their origins, under what is typed now."""
        taken_back = {other for name in typed for other in fields[name].flag.overrides}
        layers: dict[str, dict[str, Any]] = {"typed": {}}
        for name, value in self.values.items():
            if name not in taken_back:
                layers.setdefault(self.origins[name], {})[name] = value
        layers["typed"] |= typed
        return layers

    def refuse_changes(self, typed: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
        """UserError for a flag that would make it another run."""
        for name, value in typed.items():
            if name in self.values and fields[name].flag.resume == "same" and value != self.values[name]:
                raise UserError(
                    f"{fields[name].spelling}: got {as_typed(value)}, expected {as_typed(self.values[name])}, with "
                    f"which the run in {self.folder} began; leave the flag out, or start a new run without {FLAG}"
                )
        unknown = sorted(self.values.keys() - fields.keys())
        if unknown:
            raise UserError(f"{FLAG}: got {self.folder}, a run of another program or version ({', '.join(unknown)})")


def resume_of(argv: Sequence[str]) -> Resume | None:
    """What `argv` wants to go on with; None if it has no --resume_training_from."""
    early = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for flag in (FLAG, "--run_id", "--output_dir"):
        early.add_argument(flag)
    try:
        said, _ = early.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return None  # a flag without its value: the real parser says it better
    named = said.resume_training_from
    if not named:
        return None  # "" likewise
    if named != AUTO:
        return _named(Path(named), said.run_id)
    run_id = said.run_id or _slurm_id()
    if run_id is None:
        raise UserError(f"{FLAG}: got auto, expected --run_id with it (or a SLURM job), for the name of the run folder")
    folder = Path(said.output_dir or "trained_models") / run_id
    if not _has_checkpoint(folder):
        return Resume(folder, None, True, False, {"run_id": run_id}, {"run_id": "SLURM_JOB_ID"})
    return Resume(folder, None, True, True, *_config_of(folder))


def _named(path: Path, run_id: str | None) -> Resume:
    """A run folder or a checkpoint in one, as typed."""
    there = _has_checkpoint(path)
    folder = path.resolve() if path.is_symlink() else path  # `latest` may point to another run soon
    file = None if folder.is_dir() else folder
    folder = folder if file is None else folder.parent
    if not there:
        raise UserError(f"{FLAG}: got {path}, expected a run folder with a {LAST}, or a checkpoint in one")
    if run_id not in (None, folder.name):
        raise UserError(f"--run_id: got {run_id} with {FLAG} {path}, expected none: a run goes on in its own folder")
    return Resume(folder, file, False, True, *_config_of(folder))


def _has_checkpoint(path: Path) -> bool:
    """Whether a path is a file, or a folder with a checkpoint in it."""
    try:
        return path.is_file() or any((path / name).is_file() for name in (LAST, PREVIOUS))
    except OSError as error:
        raise UserError(f"{FLAG}: got {path}, which cannot be looked up ({error.strerror})") from None


def _config_of(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of config.json, and their origins."""
    try:
        parts = json.loads((folder / "config.json").read_text())["config"].values()
        said = {name: (each["value"], str(each["origin"])) for part in parts for name, each in part.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{FLAG}: got {folder}, whose config.json cannot be read ({type(error).__name__}); a run goes on with it"
        ) from None
    values = {name: tuple(value) if isinstance(value, list) else value for name, (value, _) in said.items()}
    origins = {name: origin for name, (_, origin) in said.items()}
    return values | {"output_dir": str(folder.parent)}, origins  # where it lies now


def _slurm_id() -> str | None:
    """The name of a job's run; it stays when the job is queued again."""
    job = os.environ.get("SLURM_JOB_ID")
    return job and f"slurm-{job}"
