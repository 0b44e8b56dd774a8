"""`--resume_training_from`: find the run to resume, and read its flags from config.json."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl.config.flags import Field, as_typed, without_tilde
from cl.errors import UserError

LAST = "last.ckpt"  # the newest checkpoint of a run folder
PREVIOUS = "previous.ckpt"  # the one before it
EXPORT = "backbone.safetensors"  # the backbone alone, written at the end of a pretraining
SUMMARY = "summary.json"  # written last: its presence marks a finished run
AUTO = "auto"
FLAG = "--resume_training_from"


@dataclass(frozen=True)
class Resume:
    """The run to resume, or, with `auto`, one that may not have begun yet."""

    folder: Path
    file: Path | None = None  # the checkpoint that was typed; else the newest intact one
    auto: bool = False
    begun: bool = True  # it has a checkpoint, and so a config of its own
    values: Mapping[str, Any] = field(default_factory=dict)  # by field name
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return (self.folder / SUMMARY).is_file()

    def layers(self, typed: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Mapping[str, Any]]:
        """The run's values by origin, with the newly typed ones merged into its typed ones."""
        overridden = {other for name in typed for other in fields[name].flag.overrides}
        by_origin: dict[str, dict[str, Any]] = {"typed": {}}
        for name, value in self.values.items():
            if name not in overridden:
                by_origin.setdefault(self.origins[name], {})[name] = value
        return {**by_origin, "typed": by_origin["typed"] | dict(typed)}

    def refuse_changes(self, typed: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
        """Raise UserError for a typed value that the run cannot be resumed with."""
        for name, value in typed.items():
            if name in self.values and fields[name].flag.resume == "same" and value != self.values[name]:
                raise UserError(
                    f"{fields[name].spelling}: got {as_typed(value)}, expected {as_typed(self.values[name])}, with "
                    f"which the run in {self.folder} began; omit the flag, or start a new run without {FLAG}"
                )
        unknown = sorted(self.values.keys() - fields.keys())
        if unknown:
            raise UserError(f"{FLAG}: got {self.folder}, a run of another program or version ({', '.join(unknown)})")


def resume_of(argv: Sequence[str]) -> Resume | None:
    """The run that `argv` resumes; None without --resume_training_from."""
    early = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for flag in (FLAG, "--run_id", "--output_dir"):
        early.add_argument(flag)
    try:
        args, _ = early.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return None  # a flag without its value: the full parser reports it better
    source = without_tilde(args.resume_training_from or "", FLAG)
    if not source:
        return None  # "" too is left to the full parser
    if source != AUTO:
        return _named_run(Path(source), args.run_id)
    run_id = args.run_id or _slurm_run_id()
    if run_id is None:
        raise UserError(f"{FLAG}: got auto, expected --run_id with it (or a SLURM job) to name the run folder")
    folder = Path(without_tilde(args.output_dir or "trained_models", "--output_dir")) / run_id
    if not _has_checkpoint(folder):
        values = {"run_id": run_id}
        origins = {"run_id": "SLURM_JOB_ID"}
        return Resume(folder, auto=True, begun=False, values=values, origins=origins)
    values, origins = _read_config(folder)
    return Resume(folder, auto=True, values=values, origins=origins)


def _named_run(path: Path, run_id: str | None) -> Resume:
    """The run at `path`, a run folder or a checkpoint in one."""
    has_checkpoint = _has_checkpoint(path)
    target = path.resolve() if path.is_symlink() else path  # `latest` may soon point to another run
    file = None if target.is_dir() else target
    folder = target if file is None else target.parent
    if not has_checkpoint:
        raise UserError(f"{FLAG}: got {path}, expected a run folder with a {LAST}, or a checkpoint in one")
    if run_id not in (None, folder.name):
        raise UserError(f"--run_id: got {run_id} with {FLAG} {path}, expected none: a run resumes in its own folder")
    values, origins = _read_config(folder)
    return Resume(folder, file, values=values, origins=origins)


def _has_checkpoint(path: Path) -> bool:
    """Whether `path` is a file, or a folder with a checkpoint in it."""
    try:
        return path.is_file() or any((path / name).is_file() for name in (LAST, PREVIOUS))
    except OSError as error:
        raise UserError(f"{FLAG}: got {path}, which cannot be looked up ({error.strerror})") from None


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and origins of the flags in config.json, by field name."""
    try:
        parts = json.loads((folder / "config.json").read_text())["config"].values()
        entries = {name: (entry["value"], str(entry["origin"])) for part in parts for name, entry in part.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{FLAG}: got {folder}, whose config.json cannot be read ({type(error).__name__}); a run resumes with it"
        ) from None
    values = {name: tuple(value) if isinstance(value, list) else value for name, (value, _) in entries.items()}
    origins = {name: origin for name, (_, origin) in entries.items()}
    return values | {"output_dir": str(folder.parent)}, origins  # the folder may have been moved


def _slurm_run_id() -> str | None:
    """A run id from the SLURM job id, which a requeued job keeps."""
    job = os.environ.get("SLURM_JOB_ID")
    return job and f"slurm-{job}"
