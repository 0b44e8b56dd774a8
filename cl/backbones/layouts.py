"""Others' state dicts under the names of our backbones: whose prefix is it, and what do they call the parts?"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

# Wrappers, and what others call the network whose features are wanted; MoCo's slow copies (encoder_k) are none of them.
HOLDERS = ("module", "_orig_mod", "backbone", "encoder", "encoder_q", "base_encoder", "model")
COUNTER = "num_batches_tracked"  # absent before torch 0.4.1; nothing is computed from it


class BackboneMatch(NamedTuple):
    """The part of a state dict that is a backbone."""

    weights: Mapping[str, Tensor]  # under the backbone's names
    prefix: str  # that they had
    layout: str  # in words
    others: tuple[str, ...]  # keys that are no part of it
    more: tuple[
        str, ...
    ] = ()  # of those, keys of further layers: a ResNet-34 has every key of a ResNet-18, and is none


def find_backbone(wanted: Collection[str], tensors: Mapping[str, Any]) -> BackboneMatch:
    """The prefix and the layout under which most of the `wanted` names are there."""
    keys = {key: value for key, value in tensors.items() if isinstance(key, str) and isinstance(value, Tensor)}
    parts = {name.split(".")[0] for name in wanted}
    best = BackboneMatch({}, "", "", tuple(map(str, tensors)))
    for prefix in _prefixes(keys):
        for layout, rename in LAYOUTS.items():
            names = {rename(key.removeprefix(prefix)): key for key in keys if key.startswith(prefix)}
            weights = {name: keys[names[name]] for name in wanted if name in names}
            if len(weights) > len(best.weights):
                used = {names[name] for name in weights}
                more = tuple(name for name in names if name not in weights and name.split(".")[0] in parts)
                best = BackboneMatch(
                    weights, prefix, layout, tuple(str(key) for key in tensors if key not in used), more
                )
    return best


def _prefixes(keys: Iterable[str]) -> list[str]:
    """Every run of holders that a key begins with, the shortest first: "", "module.", "module.encoder_q."."""
    found = {""}
    for key in keys:
        held = re.match(rf"(?:(?:{'|'.join(HOLDERS)})\.)*", key)
        parts = held.group().split(".")[:-1] if held else []
        found |= {"".join(f"{part}." for part in parts[: n + 1]) for n in range(len(parts))}
    return sorted(found, key=len)


def _shortcut(key: str) -> str:
    return key.replace(".shortcut.", ".downsample.")


# Children of an nn.Sequential; 2 and 3 are ReLU and max-pool. That of lightly's own ResNet, where layer1 is 2, has lost
# the ReLU, which is a function there: it is another network and is refused.
_NUMBERED = dict(zip("014567", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=True))


def _numbered(key: str) -> str:
    head, _, rest = key.partition(".")
    return f"{_NUMBERED.get(head, head)}.{rest}"


LAYOUTS: Mapping[str, Callable[[str], str]] = {
    "torchvision's or timm's names": str,
    "SupContrast's names, shortcut for downsample": _shortcut,
    "the numbered children of torchvision's ResNet": _numbered,
}


def left_over(found: BackboneMatch) -> str:
    """The keys that are no part of the backbone, counted by where they belong: fc (2), encoder_k (122)."""
    counts: dict[str, int] = {}
    for key in found.others:
        rest = key.removeprefix(found.prefix) if found.prefix else key
        name = next((part for part in rest.split(".") if part not in HOLDERS[:2]), rest)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "nothing"
