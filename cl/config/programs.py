"""Which configs make up each program, and how typed flags and presets become them."""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from cl.config import methods
from cl.config.backbone import BackboneConfig, EncoderConfig
from cl.config.data import DataConfig
from cl.config.evaluation import LinearConfig, OnlineConfig
from cl.config.flags import Config, fields_of
from cl.config.methods import METHODS, MethodConfig
from cl.config.optim import LinearOptimConfig, PretrainOptimConfig
from cl.config.presets import (
    CACHED,
    CACHED_GRID,
    LINEAR_DATASETS,
    PRETRAIN_DATASETS,
    PRETRAIN_FLAGS,
    PRETRAIN_OPTIMIZERS,
    Preset,
)
from cl.config.run import DeviceConfig, RunConfig
from cl.config.views import PretrainViewsConfig, ViewsConfig
from cl.errors import UserError


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

    @property
    def batches_per_loss(self) -> int:
        """How many batches of --accumulate have one loss: without --exact_negatives each has its own."""
        exact = self.optim.exact_negatives and self.method.compares_images
        return self.optim.accumulate if exact else 1


@dataclass(frozen=True)
class Linear:
    """Everything that main_linear.py is told; the backbone's own config comes from the checkpoint."""

    data: DataConfig
    backbone: EncoderConfig
    linear: LinearConfig
    views: ViewsConfig
    optim: LinearOptimConfig
    device: DeviceConfig
    run: RunConfig

    def __post_init__(self) -> None:
        optim = self.optim
        points = len(optim.grid)
        if self.linear.finetune and points > 1:
            raise UserError(f"--finetune: got it with a grid of {points}, expected one --lr and one --weight_decay")
        if self.linear.protocol == "cached" and self.run.dry_run:
            raise UserError("--dry_run: got it with --protocol cached, expected standard: it times training steps")
        if self.linear.protocol == "cached" and optim.optimizer != "sgd":
            raise UserError(f"--optimizer: got {optim.optimizer} with --protocol cached, expected sgd")
        if self.linear.protocol == "cached" and optim.scheduler == "reduce":
            raise UserError("--scheduler: got reduce with --protocol cached, expected a schedule known beforehand")

    @property
    def holds_out(self) -> bool:
        """Whether a part of the training images is never trained on: it chooses a point of the grid."""
        return self.linear.protocol == "standard" and len(self.optim.grid) > 1


Parts = Mapping[str, type[Config]]
Origins = Mapping[str, str]  # field name -> "typed", "digits preset", "multicrop preset", "simclr preset", "default"


def config_parts(program: type[Pretrain] | type[Linear], method: str | None) -> Parts:
    """The config classes of a program, with the chosen method's own in the place of `MethodConfig`."""
    parts = get_type_hints(program)
    return {name: METHODS[method] if part is MethodConfig and method else part for name, part in parts.items()}


def preset_layers(program: type[Pretrain] | type[Linear], typed: Preset, method: str | None) -> dict[str, Preset]:
    """What was typed and the presets that apply, strongest first."""
    return _linear_layers(typed) if program is Linear else _pretrain_layers(typed, method or methods.DEFAULT)


def _linear_layers(typed: Preset) -> dict[str, Preset]:
    dataset = typed.get("dataset", "")
    layers = {"typed": typed}
    if typed.get("protocol") == "cached":
        layers["cached preset"] = CACHED if "lr" in typed else {**CACHED, **CACHED_GRID}
    return layers | {f"{dataset} preset": LINEAR_DATASETS.get(dataset, {})}


def _pretrain_layers(typed: Preset, method: str) -> dict[str, Preset]:
    dataset = typed.get("dataset", "")
    optimizer = typed.get("optimizer", "")
    config = METHODS[method]
    stronger = {
        "typed": typed,
        f"{optimizer} preset": PRETRAIN_OPTIMIZERS.get(optimizer, {}),
        f"{dataset} {method} preset": config.dataset_presets.get(dataset, {}),
        f"{dataset} preset": PRETRAIN_DATASETS.get(dataset, {}),
    }
    weaker = {f"{method} preset": config.preset}
    values = ChainMap(*map(dict, (stronger | weaker).values()))  # the first layer that has a flag wins
    by_flags = {f"{flag} preset": preset for flag, preset in PRETRAIN_FLAGS.items() if values.get(flag)}
    return stronger | by_flags | weaker


def resolve_values(parts: Parts, layers: Mapping[str, Preset]) -> tuple[dict[str, dict[str, Any]], Origins]:
    """Each field's value from the first layer that has it, else its default; and which layer that was."""
    defaults = {d.name: d.default for part in parts.values() for d in fields_of(part)}
    own = layers.get("default", {})  # a run goes on with the defaults that it began with
    layers = {name: layer for name, layer in layers.items() if name != "default"} | {"default": defaults | {**own}}
    origins = {
        d.name: next(o for o, layer in layers.items() if d.name in layer)
        for part in parts.values()
        for d in fields_of(part)
    }
    values = {name: {d.name: layers[origins[d.name]][d.name] for d in fields_of(part)} for name, part in parts.items()}
    return values, origins
