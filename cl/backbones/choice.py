"""Choose among several networks in one file: teacher and student, averaged and not, query and key."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cl.backbones.layouts import COUNTER, PLAIN, WRAPPERS, BackboneMatch, describe_content, find_backbones
from cl.errors import UserError

FLAG = "--weights_key"

# Words in the name of a network, and its rank: the lowest is the one that the method's authors evaluate. timm and
# ConvNeXt evaluate the average (state_dict_ema, model_ema); BYOL the online network; DINO, iBOT and DINOv2 the teacher.
# lightly's benchmarks and solo-learn call the network that they evaluate `backbone`, whatever else is in the file.
AVERAGED, ORDINARY, TEACHER, STUDENT, MOMENTUM = range(5)
RANKS = {
    "ema": AVERAGED,
    "teacher": TEACHER,
    "student": STUDENT, "current": STUDENT, "anchor": STUDENT,
    "momentum": MOMENTUM, "k": MOMENTUM, "key": MOMENTUM, "target": MOMENTUM,
}  # fmt: skip


def choose_network(
    expected: Mapping[str, Tensor], content: Mapping[str, Any], key: str | None, given: str
) -> tuple[BackboneMatch, list[str]]:
    """The network to load, and the paths of all networks in the file that could be the backbone `expected`.

    `key` names one of them by its path or a part of it. The choice may be incomplete; UserError if `key` is not in the
    file, or if the file only has networks that are never evaluated.
    """
    found = find_backbones(expected, content)
    networks = [match for match in found if 2 * _count(match.weights) >= _count(expected)]
    paths = [network.path for network in networks]
    if key is not None:
        named = [match for match in networks or found if _distance(key, match) is not None]
        if not named:
            choices = ", ".join(path for path in paths if path) or describe_content(content)
            expected_keys = "none, since the only network is without a key" if paths == [""] else f"one of {choices}"
            raise UserError(f"{FLAG}: got {key}, expected {expected_keys}, in {_file(given)}")
        closest = min(_distance(key, match) or 0 for match in named)
        networks = [match for match in named if _distance(key, match) == closest]
    candidates = networks or found or [BackboneMatch({}, {}, "", "", "", unused=tuple(map(str, content)))]
    best = min(candidates, key=lambda match: _preference(match, expected, paths))
    if key is None and networks and _rank(best, paths) == MOMENTUM:
        raise UserError(
            f"{given}, which has only {', '.join(paths)}, a momentum encoder that its method does not evaluate; "
            f"{FLAG} {best.path} takes it"
        )
    return best, paths


def describe_choice(match: BackboneMatch, paths: Sequence[str]) -> str:
    """Which network of a file was taken, and which others it has; "" if it has one only."""
    others = [path or "the one without a prefix" for path in paths if path != match.path]
    if not others:
        return ""
    taken = match.path or "the network without a prefix"
    return f"; taken: {taken}; the file also has {', '.join(others)} ({FLAG})"


def _count(weights: Mapping[str, Tensor]) -> int:
    return sum(not name.endswith(COUNTER) for name in weights)


def _file(given: str) -> str:
    return given.partition(" got ")[2] or "the file"


def _distance(key: str, match: BackboneMatch) -> int | None:
    """0 if `key` is the whole path of a network, 1 if it begins it, 2 if it is within it, else None."""
    path = _parts(match.path)
    short = path[1:] if path and path[0] in PLAIN and path != _parts(key) else path
    wanted = _parts(key) or key.split(".")  # of wrappers only
    if wanted in (path, short):
        return 0
    if wanted in (path[: len(wanted)], short[: len(wanted)]):
        return 1
    within = any(path[start : start + len(wanted)] == wanted for start in range(len(path)))
    return 2 if within else None


def _parts(path: str) -> list[str]:
    return [part for part in path.split(".") if part and part not in WRAPPERS]


def _preference(match: BackboneMatch, expected: Mapping[str, Tensor], paths: Sequence[str]) -> tuple[Any, ...]:
    """A sort key: another architecture comes last, however its network is named; then by rank; the larger match."""
    misshapen = sum(value.shape != expected[name].shape for name, value in match.weights.items())
    other_shapes = 2 * misshapen > len(match.weights)
    return bool(match.extra), other_shapes, _rank(match, paths), -_count(match.weights), len(match.prefix)


def _rank(match: BackboneMatch, paths: Sequence[str]) -> int:
    parts = _parts(match.path)
    if parts[:1] == ["target_encoder"] and not any("online" in path for path in paths):
        return AVERAGED  # I-JEPA and MSN evaluate it; their files have encoder and target_encoder at the top
    words = [word for part in parts for word in re.split("[_-]", part.lower())]
    return next((rank for word, rank in RANKS.items() if word in words), ORDINARY)
