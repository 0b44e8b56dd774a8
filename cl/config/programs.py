"""Which configs make up each program, and how typed flags and presets become them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from cl.config.backbone import BackboneConfig, EncoderConfig
from cl.config.data import DataConfig
from cl.config.evaluation import LinearConfig, OnlineConfig
from cl.config.flags import Config, fields_of
from cl.config.methods import METHODS, MethodConfig
from cl.config.optim import OptimConfig, PretrainOptimConfig
from cl.config.presets import LINEAR_DATASETS, PRETRAIN_DATASETS, PRETRAIN_METHODS, Preset
from cl.config.run import DeviceConfig, RunConfig
from cl.config.views import PretrainViewsConfig, ViewsConfig


@dataclass(frozen=True)
class Pretrain:
    """Everything that main_contrastive.py is told."""

    data: DataConfig
    backbone: BackboneConfig
    method: MethodConfig
    views: PretrainViewsConfig
    optim: PretrainOptimConfig
    online: OnlineConfig
    device: DeviceConfig
    run: RunConfig


@dataclass(frozen=True)
class Linear:
    """Everything that main_linear.py is told; the backbone's own config comes from the checkpoint."""

    data: DataConfig
    backbone: EncoderConfig
    linear: LinearConfig
    views: ViewsConfig
    optim: OptimConfig
    device: DeviceConfig
    run: RunConfig


Parts = Mapping[str, type[Config]]
Origins = Mapping[str, str]  # field name -> "typed", "digits preset", "simclr preset" or "default"


def parts_of(program: type[Pretrain] | type[Linear], method: str | None) -> Parts:
    """The config classes of a program, with the chosen method's own in the place of `MethodConfig`."""
    parts = get_type_hints(program)
    return {name: METHODS[method] if part is MethodConfig and method else part for name, part in parts.items()}


def preset_layers(program: type[Pretrain] | type[Linear], dataset: str | None, method: str | None) -> dict[str, Preset]:
    """The presets that apply, strongest first."""
    datasets = PRETRAIN_DATASETS if program is Pretrain else LINEAR_DATASETS
    layers = {f"{dataset} preset": datasets.get(dataset or "", {})}
    return layers | ({f"{method} preset": PRETRAIN_METHODS.get(method or "", {})} if program is Pretrain else {})


def settle(parts: Parts, layers: Mapping[str, Preset]) -> tuple[dict[str, dict[str, Any]], Origins]:
    """Each field's value from the first layer that has it, else its default; and which layer that was."""
    layers = dict(layers) | {"default": {d.name: d.default for part in parts.values() for d in fields_of(part)}}
    origins = {
        d.name: next(o for o, layer in layers.items() if d.name in layer)
        for part in parts.values()
        for d in fields_of(part)
    }
    values = {name: {d.name: layers[origins[d.name]][d.name] for d in fields_of(part)} for name, part in parts.items()}
    return values, origins
