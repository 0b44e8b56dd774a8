"""Fill the flags on images that nobody has set with what the given weights say."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cl.backbones.inputs import Inputs
from cl.cli import Resolved
from cl.config.backbone import is_path
from cl.config.data import ASSUMED
from cl.config.flags import Config, as_typed
from cl.config.programs import Linear, Pretrain
from cl.config.views import in_pixels
from cl.run.folder.run_folder import plain_values
from cl.run.weights.inputs import inputs_of_download, inputs_of_file

P = TypeVar("P", Pretrain, Linear)


def with_known_inputs(resolved: Resolved[P]) -> Resolved[P]:
    """The run with the inputs of the weights that it starts from or evaluates, where no flag says otherwise."""
    if resolved.resume is not None and resolved.resume.begun:  # config.json has them
        return resolved
    config = resolved.config
    flag = "--init_from" if isinstance(config, Pretrain) else "--pretrained_feature_extractor"
    source = plain_values(resolved)[flag.removeprefix("--")]
    if source is None:
        return resolved
    downloads = isinstance(config, Pretrain) and not is_path(source)
    found = inputs_of_download(source, config.backbone) if downloads else inputs_of_file(source, flag, config.backbone)
    if found is not None and len(found.norm[0]) == config.data.in_channels:
        return _filled(resolved, found)
    assumed = {} if config.data.norm else {"mean": ASSUMED, "std": ASSUMED}
    return replace(resolved, origins={**resolved.origins, **assumed})


def _filled(resolved: Resolved[P], found: Inputs) -> Resolved[P]:
    """`resolved` with what is known, and notes on flags that differ from it."""
    config = resolved.config
    unset = {name for name, origin in resolved.origins.items() if origin == "default"}
    size = found.size if found.size and "crop_size" in unset else config.views.crop_size
    view = found.view(size)
    known = {
        "mean": found.norm[0],
        "std": found.norm[1],
        "crop_size": size,
        "eval_resize": view.cover,
        "eval_interpolation": view.interpolation,
    }
    values = plain_values(resolved)
    changed: dict[str, Any] = {name: x for name, x in known.items() if name in unset and x != values[name]}
    parts: dict[str, Any] = {name: _with_values(vars(config)[name], changed) for name in ("data", "views")}
    filled: P = replace(config, **parts)
    origins = {**resolved.origins, **dict.fromkeys(changed, found.origin)}
    return replace(resolved, config=filled, origins=origins, notes=(*resolved.notes, *_differences(filled, found)))


def _with_values(part: Config, values: Mapping[str, Any]) -> Config:
    """A part of the config with those of `values` that are its fields."""
    return replace(part, **{name: value for name, value in values.items() if name in vars(part)})


def _differences(config: Pretrain | Linear, found: Inputs) -> Iterator[str]:
    if config.data.norm != found.norm:
        typed = f"--mean {as_typed(config.data.mean)} --std {as_typed(config.data.std)}"
        (mean, std) = map(as_typed, found.norm)
        yield f"{typed}, but the backbone was pretrained with {mean} and {std} ({found.origin})"
    if found.size is not None and found.size != config.views.crop_size:
        typed = as_typed(config.views.crop_size)
        yield f"--crop_size {typed}, but the backbone was pretrained at {in_pixels(found.size)}"
    if found.differs:
        yield found.differs
