"""Read weight files, our own and others', without executing code in them."""

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

EXPORT = "backbone.safetensors"  # written at the end of a run


class _Placeholder:
    """Replaces an object that is not needed; its class is neither imported nor called."""

    def __init__(self, *state: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Besides tensors, SupContrast stores its flags and solo-learn its omegaconf; `weights_only` alone refuses both files.
# These types only hold values; none of them executes code.
SAFE_TYPES: list[Any] = [argparse.Namespace, collections.defaultdict, typing.Any, list, dict, int, float, str, bool]
SAFE_TYPES += [
    (_Placeholder, name)
    for name in (
        "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
    )
]  # fmt: skip


class Weights(NamedTuple):
    """The contents of a weight file."""

    file: Path
    tensors: Mapping[str, Any]  # a state dict
    metadata: Mapping[str, Any]  # everything else


def read_weights(source: str, flag: str) -> Weights:
    """Read a file, or a run folder's last checkpoint, else its export; UserError names `flag`."""
    path = Path(source)
    try:
        file = _file_in(path) if path.is_dir() else path
        exists = file.is_file()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{flag}: got {source}, which cannot be looked up ({reason})") from None
    if not exists:
        raise UserError(f"{flag}: got {source}, expected a run folder or a weight file; there is no {file}")
    try:
        tensors, metadata = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    except Exception as error:  # torch raises all kinds of errors for other files: IndexError, EOFError, ...
        raise UserError(f"{flag}: got {source}; {file} cannot be read as weights ({type(error).__name__})") from None
    return Weights(file, tensors, metadata)


def _file_in(folder: Path) -> Path:
    has_only_export = (folder / EXPORT).is_file() and not (folder / LAST).is_file()
    return folder / (EXPORT if has_only_export else LAST)


def _read_safetensors(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _read_pickle(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_TYPES):
        warnings.simplefilter("ignore")  # torch warns before it refuses
        content = torch.load(file, "cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"expected a dict, got a {type(content).__name__}")
    if isinstance(content.get("cl"), Mapping):  # ours
        return _with_evaluated(content["state_dict"], content["cl"].get("evaluated", "backbone")), content
    nested = (content.get(name) for name in ("state_dict", "model"))  # Lightning, MoCo; SupContrast, Barlow Twins
    tensors = next((value for value in nested if isinstance(value, Mapping)), content)
    return tensors, content


def _with_evaluated(tensors: Mapping[str, Any], evaluated: str) -> Mapping[str, Any]:
    """A checkpoint's weights, with the evaluated network, the student's or a teacher's, as `backbone`."""
    if evaluated == "backbone":
        return tensors
    others = {key: value for key, value in tensors.items() if not key.startswith("backbone.")}
    return {key.replace(f"{evaluated}.", "backbone.", 1): value for key, value in others.items()}
