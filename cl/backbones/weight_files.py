"""Read weight files, our own and others', without executing code in them."""

import argparse
import collections
import json
import typing
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from cl.config.resume import EXPORT, LAST
from cl.errors import UserError


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
    given: str  # how messages about it start: "--init_from: got trained_models/latest (last.ckpt)"
    tensors: Mapping[str, Any]  # a state dict, or dicts that hold state dicts
    metadata: Mapping[str, Any]  # everything else
    evaluated: str | None = None  # of our checkpoints: the key of the network that is evaluated, a teacher's or not
    encoder: str | None = None  # of our checkpoints and exports, as they say


def read_weights(source: str, flag: str) -> Weights:
    """Read a file, or a run folder's last checkpoint, else its export; UserError names `flag`."""
    path = Path(source)
    try:
        file = file_of(source)
        exists = file.is_file()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{flag}: got {source}, which cannot be looked up ({reason})") from None
    if not exists:
        raise UserError(f"{flag}: got {source}, expected a run folder or a weight file; there is no {file}")
    given = f"{flag}: got {source}" + (f" ({file.name})" if path.is_dir() else "")
    try:
        if file.suffix == ".safetensors":
            tensors, metadata = _read_safetensors(file)
            return Weights(file, given, tensors, metadata, encoder=_encoder_in(metadata))
        return _weights_of(_read_pickle(file), file, given)
    except Exception as error:  # torch raises all kinds of errors for other files: IndexError, EOFError, ...
        raise UserError(f"{flag}: got {source}; {file} cannot be read as weights ({type(error).__name__})") from None


def file_of(source: str) -> Path:
    """The file of weights that a path, perhaps of a run folder, means."""
    path = Path(source)
    return _file_in(path) if path.is_dir() else path


def _weights_of(content: Mapping[str, Any], file: Path, given: str) -> Weights:
    """Only the state dict of a checkpoint of ours is looked at, which says itself which network is evaluated."""
    if not isinstance(content.get("cl"), Mapping):
        return Weights(file, given, content, content)
    evaluated = str(content["cl"].get("evaluated", "backbone"))
    tensors = {"state_dict": dict(content["state_dict"])}
    return Weights(file, given, tensors, content, evaluated, _encoder_in(content))


def _encoder_in(metadata: Mapping[str, Any]) -> str | None:
    """The encoder that a card or a checkpoint of ours names; None if there is none, or if it is damaged."""
    with suppress(KeyError, TypeError, ValueError):
        if "card" in metadata:
            return str(json.loads(metadata["card"])["encoder"])
        return str(metadata["cl"]["config"]["backbone"]["encoder"])
    return None


def _file_in(folder: Path) -> Path:
    has_only_export = (folder / EXPORT).is_file() and not (folder / LAST).is_file()
    return folder / (EXPORT if has_only_export else LAST)


def _read_safetensors(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _read_pickle(file: Path) -> Mapping[str, Any]:
    with warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_TYPES):
        warnings.simplefilter("ignore")  # torch warns before it refuses
        content = torch.load(file, "cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"expected a dict, got a {type(content).__name__}")
    return content
