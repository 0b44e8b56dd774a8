"""The configs of each program, and how their values are resolved from typed flags and presets."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from cl.config import methods
from cl.config.backbone import BackboneConfig, EncoderConfig, is_transformer
from cl.config.data import COLOURS, DataConfig
from cl.config.evaluation import LinearConfig, OnlineConfig
from cl.config.flags import Config, fields_of
from cl.config.methods import METHODS, MethodConfig
from cl.config.optim import LinearOptimConfig, PretrainOptimConfig
from cl.config.presets import (
    CACHED,
    CACHED_GRID,
    FOR_ADAMW,
    LINEAR_DATASETS,
    PRETRAIN_CONTINUED,
    PRETRAIN_DATASETS,
    PRETRAIN_FLAGS,
    PRETRAIN_MULTICHANNEL,
    PRETRAIN_OPTIMIZERS,
    PRETRAIN_TRANSFORMERS,
    Preset,
)
from cl.config.run import DeviceConfig, PretrainDeviceConfig, RunConfig
from cl.config.views import PretrainViewsConfig, ViewsConfig
from cl.errors import UserError


@dataclass(frozen=True)
class Pretrain:
    """All flags of main_contrastive.py."""

    data: DataConfig
    backbone: BackboneConfig
    method: MethodConfig
    views: PretrainViewsConfig
    optim: PretrainOptimConfig
    online: OnlineConfig
    device: PretrainDeviceConfig
    run: RunConfig

    def __post_init__(self) -> None:
        self.method.check_batch(self.data.batch_size * self.optim.accumulate)  # of one process; more are checked later
        colour = {name: vars(self.views)[name] for name in PRETRAIN_MULTICHANNEL if vars(self.views)[name]}
        if self.data.in_channels > COLOURS and colour:
            name, value = next(iter(colour.items()))
            raise UserError(
                f"--{name}: got {value:g} with --in_channels {self.data.in_channels}, expected 0: it is defined for "
                "red, green and blue"
            )
        if self.views.n_crops < self.method.least_views:
            raise UserError(
                f"--n_crops: got {self.views.n_crops} with --method {self.method.method}, expected at least "
                f"{self.method.least_views}: it compares views of an image"
            )
        if self.device.graphs == "on" and self.batches_per_loss > 1:
            raise UserError(
                "--graphs: got on with --exact_negatives, expected auto or off: its second forward pass is no replay"
            )

    @property
    def batches_per_loss(self) -> int:
        """Batches that share one loss: all of --accumulate under --exact_negatives, else one."""
        exact = self.optim.exact_negatives and self.method.compares_images
        return self.optim.accumulate if exact else 1


@dataclass(frozen=True)
class Linear:
    """All flags of main_linear.py; how the backbone is built comes from the checkpoint."""

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
            raise UserError(
                "--dry_run: got it with --protocol cached, expected --protocol standard: a dry run times training steps"
            )
        if self.linear.protocol == "cached" and optim.optimizer != "sgd":
            raise UserError(f"--optimizer: got {optim.optimizer} with --protocol cached, expected sgd")
        if self.linear.protocol == "cached" and optim.scheduler == "reduce":
            raise UserError(
                "--scheduler: got reduce with --protocol cached, expected a schedule that is known in advance"
            )

    @property
    def holds_out(self) -> bool:
        """Whether a part of the training images is held out of training, to choose a point of the grid."""
        return self.linear.protocol == "standard" and len(self.optim.grid) > 1


MOST_USED: Mapping[type, tuple[str, ...]] = {  # --help begins with them
    Pretrain: (
        "dataset", "encoder", "method", "data_folder", "train_dir", "val_dir", "crop_size", "batch_size", "epochs",
        "lr", "init_from", "gpus",
    ),
    Linear: (
        "dataset", "encoder", "pretrained_feature_extractor", "data_folder", "train_dir", "val_dir", "batch_size",
        "epochs", "lr", "protocol", "few_shot", "gpus",
    ),
}  # fmt: skip

Parts = Mapping[str, type[Config]]
Origins = Mapping[str, str]  # field name -> "typed", "digits preset", "multicrop preset", "simclr preset", "default"


def config_parts(program: type[Pretrain] | type[Linear], method: str | None) -> Parts:
    """The config classes of a program by name, with the method's own class instead of `MethodConfig`."""
    parts = get_type_hints(program)
    return {name: METHODS[method] if part is MethodConfig and method else part for name, part in parts.items()}


def preset_layers(program: type[Pretrain] | type[Linear], typed: Preset, method: str | None) -> dict[str, Preset]:
    """The typed values and the presets that apply, highest precedence first."""
    return _linear_layers(typed) if program is Linear else _pretrain_layers(typed, method or methods.DEFAULT)


def _linear_layers(typed: Preset) -> dict[str, Preset]:
    dataset = typed.get("dataset", "")
    layers = {"typed": typed}
    if typed.get("protocol") == "cached":
        layers["cached preset"] = CACHED if "lr" in typed else {**CACHED, **CACHED_GRID}
    return layers | {f"{dataset} preset": LINEAR_DATASETS.get(dataset, {})}


def _pretrain_layers(typed: Preset, method: str) -> dict[str, Preset]:
    dataset = typed.get("dataset", "")
    config = METHODS[method]
    of_dataset = {
        f"{dataset} {method} preset": config.dataset_presets.get(dataset, {}),
        f"{dataset} preset": PRETRAIN_DATASETS.get(dataset, {}),
    }
    stronger = {
        "typed": typed,
        "in_channels preset": PRETRAIN_MULTICHANNEL if typed.get("in_channels", COLOURS) > COLOURS else {},
        **_transformer_layers(typed, method),
        **_continued_layers(typed),
        **_optimizer_layer(typed, [*of_dataset.values(), config.preset]),
        **of_dataset,
    }
    weaker = {f"{method} preset": config.preset}
    values = ChainMap(*map(dict, (stronger | weaker).values()))  # the first layer that has a flag wins
    by_flag = {f"{flag} preset": preset for flag, preset in PRETRAIN_FLAGS.items() if values.get(flag)}
    return stronger | by_flag | weaker


def _optimizer_layer(typed: Preset, weaker: Sequence[Preset]) -> dict[str, Preset]:
    """The preset of a typed optimizer; not of the one for which the rates of the weaker presets are."""
    optimizer = typed.get("optimizer", "")
    same = optimizer in [preset["optimizer"] for preset in weaker if "optimizer" in preset][:1]
    return {} if same else {f"{optimizer} preset": PRETRAIN_OPTIMIZERS.get(optimizer, {})}


def _transformer_layers(typed: Preset, method: str) -> dict[str, Preset]:
    """The presets of vision transformers."""
    if not is_transformer(typed.get("encoder", "")):
        return {}
    layers = {
        f"{method} transformer preset": METHODS[method].transformer_preset,
        "transformer preset": PRETRAIN_TRANSFORMERS,
    }
    return _for_typed_optimizer(layers, typed)


def _continued_layers(typed: Preset) -> dict[str, Preset]:
    """The preset of a run that starts from weights."""
    layers = {"continued preset": PRETRAIN_CONTINUED} if typed.get("init_from") else {}
    return _for_typed_optimizer(layers, typed)


def _for_typed_optimizer(layers: dict[str, Preset], typed: Preset) -> dict[str, Preset]:
    """Presets for AdamW, without what is for it if another optimizer is typed."""
    if typed.get("optimizer", "adamw") == "adamw":
        return layers
    return {
        origin: {flag: value for flag, value in preset.items() if flag not in FOR_ADAMW}
        for origin, preset in layers.items()
    }


def resolve_values(parts: Parts, layers: Mapping[str, Preset]) -> tuple[dict[str, dict[str, Any]], Origins]:
    """Values by part and field, and origins by field: the first layer that has the field, else its default."""
    defaults = {field.name: field.default for part in parts.values() for field in fields_of(part)}
    defaults |= layers.get("default", {})  # a resumed run keeps the defaults that it began with
    layers = {origin: layer for origin, layer in layers.items() if origin != "default"} | {"default": defaults}
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for name, part in parts.items():
        values[name] = {}
        for field in fields_of(part):
            origin = next(origin for origin, layer in layers.items() if field.name in layer)
            origins[field.name] = origin
            values[name][field.name] = layers[origin][field.name]
    return values, origins
