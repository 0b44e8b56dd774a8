"""Find a backbone in other toolkits' state dicts, under any known prefix and layout of names."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

# Wrappers, and other toolkits' names of the backbone; MoCo's momentum encoder (encoder_k) is excluded on purpose.
WRAPPERS = ("module", "_orig_mod")
PREFIXES = (*WRAPPERS, "backbone", "encoder", "encoder_q", "base_encoder", "model")
COUNTER = "num_batches_tracked"  # absent before torch 0.4.1; not used for any result


class BackboneMatch(NamedTuple):
    """The part of a state dict that holds the backbone."""

    weights: Mapping[str, Tensor]  # by the backbone's names
    prefix: str  # of their keys in the state dict
    layout: str  # description for messages
    unused: tuple[str, ...]  # keys outside the backbone
    extra: tuple[str, ...] = ()  # names of layers that it lacks: a ResNet-34 has every key of a ResNet-18 and more


def find_backbone(names: Collection[str], tensors: Mapping[str, Any]) -> BackboneMatch:
    """Find the prefix and layout that match most of the `names` of a backbone's weights."""
    keys = {key: value for key, value in tensors.items() if isinstance(key, str) and isinstance(value, Tensor)}
    layers = {_layer(name) for name in names}
    best = BackboneMatch({}, prefix="", layout="", unused=tuple(map(str, tensors)))
    for prefix, (layout, rename) in product(_prefixes(keys), LAYOUTS.items()):
        renamed = {rename(key.removeprefix(prefix)): key for key in keys if key.startswith(prefix)}
        weights = {name: keys[renamed[name]] for name in names if name in renamed}
        if len(weights) > len(best.weights):
            used = {renamed[name] for name in weights}
            unused = tuple(str(key) for key in tensors if key not in used)
            extra = tuple(name for name in renamed if name not in weights and _layer(name) in layers)
            best = BackboneMatch(weights, prefix=prefix, layout=layout, unused=unused, extra=extra)
    return best


def _layer(name: str) -> str:
    return name.split(".")[0]


def _prefixes(keys: Iterable[str]) -> list[str]:
    """All sequences of PREFIXES with which a key starts, shortest first: "", "module.", "module.encoder_q."."""
    prefixes = {""}
    for key in keys:
        match = re.match(rf"(?:(?:{'|'.join(PREFIXES)})\.)*", key)
        parts = match.group().split(".")[:-1] if match else []
        prefixes |= {"".join(f"{part}." for part in parts[: n + 1]) for n in range(len(parts))}
    return sorted(prefixes, key=len)


def _rename_shortcut(key: str) -> str:
    return key.replace(".shortcut.", ".downsample.")


# Children of an nn.Sequential; 2 and 3 are ReLU and max-pool. A Sequential of the children of lightly's own ResNet has
# layer1 at 2 and no ReLU, which is a function there: it is a different network and is refused.
_NUMBERED = dict(zip("014567", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=True))


def _rename_numbered(key: str) -> str:
    number, _, remainder = key.partition(".")
    return f"{_NUMBERED.get(number, number)}.{remainder}"


LAYOUTS: Mapping[str, Callable[[str], str]] = {
    "torchvision's or timm's names": str,
    "SupContrast's names, shortcut for downsample": _rename_shortcut,
    "the numbered children of torchvision's ResNet": _rename_numbered,
}


def describe_unused(match: BackboneMatch) -> str:
    """The keys outside the backbone, counted by module: fc (2), encoder_k (122)."""
    counts: dict[str, int] = {}
    for key in match.unused:
        stripped = key.removeprefix(match.prefix)
        module = next((part for part in stripped.split(".") if part not in WRAPPERS), stripped)
        counts[module] = counts.get(module, 0) + 1
    return ", ".join(f"{module} ({count})" for module, count in counts.items()) or "nothing"
