"""Find a backbone in other toolkits' files, under any prefix and any known layout of names."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

WRAPPERS = ("module", "_orig_mod")
PLAIN = ("", "state_dict", "model")  # usual names of a file's only state dict
COUNTER = "num_batches_tracked"  # absent before torch 0.4.1; not used for any result
MAX_DEPTH = 4  # of dicts in dicts


class BackboneMatch(NamedTuple):
    """The part of a file that holds a backbone, or some of it."""

    weights: Mapping[str, Tensor]  # by the backbone's names
    keys: Mapping[str, str]  # of these weights in their state dict, likewise
    state_dict: str  # where it lies in the file, dotted: "state_dict", "teacher"
    prefix: str  # of the keys in the state dict
    layout: str  # description for messages
    unused: tuple[str, ...]  # keys of the state dict outside the backbone
    extra: tuple[str, ...] = ()  # names of layers that it lacks: a ResNet-34 has every key of a ResNet-18 and more

    @property
    def path(self) -> str:
        """Where the network lies in the file: "teacher.backbone", "state_dict.module.encoder_q"."""
        return ".".join(part for part in (self.state_dict, self.prefix.rstrip(".")) if part)


def find_backbones(expected: Mapping[str, Tensor], content: Mapping[str, Any]) -> list[BackboneMatch]:
    """Every place in a file with some weights of the backbone whose state dict is `expected`, in its best layout."""
    best: dict[tuple[str, str], BackboneMatch] = {}
    for place, tensors in state_dicts(content):
        for layout, rename in LAYOUTS.items():
            for prefix, keys in _keys_by_prefix(tensors, rename).items():
                match = _match(expected, tensors, place, prefix, layout, keys)
                if len(match.weights) > (len(best[place, prefix].weights) if (place, prefix) in best else 0):
                    best[place, prefix] = match
    return list(best.values())


def state_dicts(content: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dicts in a file that hold tensors, each with its dotted place; optimizers are left out."""
    if any(isinstance(value, Tensor) for value in content.values()):
        yield place, content
    for name, value in content.items():
        deeper = f"{place}.{name}" if place else str(name)
        is_searched = isinstance(name, str) and not name.startswith("optim") and deeper.count(".") < MAX_DEPTH
        if is_searched and isinstance(value, Mapping):
            yield from state_dicts(value, deeper)


def _keys_by_prefix(tensors: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, dict[str, str]]:
    """For each prefix of a key (up to a dot), the keys of tensors under it by the rest of the key, renamed."""
    by_prefix: dict[str, dict[str, str]] = {}
    for key, value in tensors.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            parts = key.split(".")
            for split in range(len(parts)):
                prefix = "".join(f"{part}." for part in parts[:split])
                by_prefix.setdefault(prefix, {})[rename(".".join(parts[split:]))] = key
    return by_prefix


def _match(
    expected: Mapping[str, Tensor],
    tensors: Mapping[str, Any],
    place: str,
    prefix: str,
    layout: str,
    renamed: Mapping[str, str],
) -> BackboneMatch:
    keys = {name: renamed[name] for name in expected if name in renamed}
    used = set(keys.values())
    layers = {_layer(name) for name in expected}
    return BackboneMatch(
        {name: tensors[key] for name, key in keys.items()},
        keys,
        state_dict=place,
        prefix=prefix,
        layout=layout,
        unused=tuple(str(key) for key in tensors if key not in used),
        extra=tuple(name for name in renamed if name not in keys and _layer(name) in layers),
    )


def _layer(name: str) -> str:
    return name.split(".")[0]


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
    return _counted(key.removeprefix(match.prefix) for key in match.unused) or "nothing"


def describe_content(content: Mapping[str, Any]) -> str:
    """The tensors of a file, counted by their first name: student (156), teacher (150)."""
    keys = (
        key if place in PLAIN else f"{place}.{key}"
        for place, tensors in state_dicts(content)
        for key, value in tensors.items()
        if isinstance(value, Tensor)
    )
    return _counted(map(str, keys)) or "no tensors"


def _counted(keys: Iterator[str]) -> str:
    counts: dict[str, int] = {}
    for key in keys:
        module = next((part for part in key.split(".") if part not in WRAPPERS), key)
        counts[module] = counts.get(module, 0) + 1
    return ", ".join(f"{module} ({count})" for module, count in counts.items())
