"""The run folders that are compared: their flags, their exported backbones, and whether their data is the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cl.config.data import DataConfig
from cl.config.flags import as_typed
from cl.config.methods import METHODS
from cl.config.programs import Pretrain, config_parts
from cl.config.resume import EXPORT
from cl.data.sources.places import full_path
from cl.errors import UserError
from cl.run.weights.load import LoadedBackbone, load_backbone

SAME = (
    "dataset",
    "train_dir",
    "val_dir",
    "labels",
    "label_column",
    "image_column",
    "hold_out",
    "limit_eval",
    "in_channels",
)  # flags of the same images


@dataclass(frozen=True)
class Run:
    """A pretraining run."""

    folder: Path
    config: Pretrain
    backbone: LoadedBackbone  # as exported
    started_from: str | None  # --init_from; a path as it was at the start

    @property
    def name(self) -> str:
        return self.folder.name


def read_runs(folders: Sequence[str]) -> list[Run]:
    """UserError for a folder that is no run of main_contrastive.py, or whose images are not those of the first one."""
    runs = [_read(folder) for folder in folders]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"RUN: got {' '.join(folders)}, expected each run once")
    for run in runs[1:]:
        _refuse_other_images(runs[0], run)
    return runs


def _read(folder: str) -> Run:
    expected = f"RUN: got {folder}, expected a run folder of main_contrastive.py: trained_models/latest"
    try:
        path = Path(folder).resolve()
        content = json.loads((path / "config.json").read_text())
        config = _config(content["config"])
        started_from = content.get("started_from", config.backbone.init_from)
    except (OSError, ValueError) as error:
        raise UserError(f"{expected}; its config.json cannot be read ({type(error).__name__})") from None
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{expected}; its config.json is of another program or version ({error})") from None
    weights = path / EXPORT if (path / EXPORT).is_file() else path
    return Run(path, config, load_backbone(weights, "RUN"), started_from)


def _config(parts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Pretrain:
    """The config that config.json holds, value and origin of each flag."""
    values = {part: {name: entry["value"] for name, entry in flags.items()} for part, flags in parts.items()}
    method = values["method"]["method"]
    kinds: Mapping[str, Any] = config_parts(Pretrain, METHODS[method].method)
    return Pretrain(**{part: kind.from_dict(values[part]) for part, kind in kinds.items()})


def _refuse_other_images(first: Run, other: Run) -> None:
    expected, got = (_located(run.config.data) for run in (first, other))
    for flag in SAME:
        if vars(got)[flag] != vars(expected)[flag]:
            spelling = flag if flag == "dataset" else f"--{flag}"
            raise UserError(
                f"RUN: got {other.name} with {spelling} {as_typed(vars(got)[flag])} and {first.name} with "
                f"{as_typed(vars(expected)[flag])}, expected runs of the same images"
            )


def _located(config: DataConfig) -> DataConfig:
    """The config with absolute paths: other words may name the same folder."""
    flags = ("train_dir", "val_dir", "labels")
    paths = {flag: str(full_path(config, vars(config)[flag]).resolve()) for flag in flags if vars(config)[flag]}
    return replace(config, **paths)  # type: ignore[arg-type]
