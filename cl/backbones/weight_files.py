"""Files of weights, ours and others': read without running anything that is in them."""

import argparse
import collections
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from cl.config.resume import LAST
from cl.errors import UserError

EXPORT = "backbone.safetensors"  # what a run leaves at its end


class _Inert:
    """Stands for an object that we have no use for; nothing of its class is imported or called."""

    def __init__(self, *state: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Beside the tensors SupContrast stores its flags, solo-learn its omegaconf; `weights_only` alone refuses both files.
# What these names stand for holds values and runs nothing.
VALUES: list[Any] = [argparse.Namespace, collections.defaultdict, typing.Any, list, dict, int, float, str, bool]
VALUES += [
    (_Inert, name)
    for name in (
        "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
    )
]  # fmt: skip


class Weights(NamedTuple):
    """What a file holds."""

    file: Path
    tensors: Mapping[str, Any]  # a state dict
    metadata: Mapping[str, Any]  # what lies beside it


def read_weights(named: str, said: str) -> Weights:
    """A run folder's newest checkpoint, else its export, or a file; `said` is the flag that a UserError names."""
    folder = Path(named)
    try:
        file = folder
        if folder.is_dir():
            file = folder / (EXPORT if (folder / EXPORT).is_file() and not (folder / LAST).is_file() else LAST)
        there = file.is_file()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{said}: got {named}, which cannot be looked up ({reason})") from None
    if not there:
        raise UserError(f"{said}: got {named}, expected a run folder or a file of weights; there is no {file}")
    try:
        tensors, metadata = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    except Exception as error:  # what torch raises for bytes that are no checkpoint is open: IndexError, EOFError, ...
        raise UserError(f"{said}: got {named}; {file} cannot be read as weights ({type(error).__name__})") from None
    return Weights(file, tensors, metadata)


def _safetensors(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _pickled(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    with warnings.catch_warnings(), torch.serialization.safe_globals(VALUES):
        warnings.simplefilter("ignore")  # torch warns of what it then refuses
        content = torch.load(file, "cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"expected a dict, got a {type(content).__name__}")
    places = (content.get(name) for name in ("state_dict", "model"))  # Lightning, MoCo; SupContrast, Barlow Twins
    return next((place for place in places if isinstance(place, Mapping)), content), content
