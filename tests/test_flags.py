"""Flags become frozen, checked configs; precedence: typed, data set preset, method preset, default."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl.cli import parse
from cl.config import presets
from cl.config.data import DATASETS
from cl.config.flags import Config, Field, fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain, config_parts, preset_layers, resolve_values
from cl.errors import UserError

CONFIGS = {config for method in METHODS for config in config_parts(Pretrain, method).values()} | set(
    config_parts(Linear, None).values()
)
WITH_OTHER_RULES = {  # fields with rules beyond type and range, which may refuse a value of `values_of`
    "--scheduler", "--min_lr", "--gaussian_prob", "--small_scale", "--lars",
    "--gpus", "--in_channels", "--loader", "--cache", "--name", "--run_id", "--method",
    "--pretrained_feature_extractor", "encoder", "--finetune", "--few_shot", "--seeds", "--resume_training_from",
    "--teacher_momentum_end", "--teacher_temperature_start", "--patch_size", "--drop_path", "--weights_key",
    "--hold_out", "--renew_statistics",
    "--mean", "--std", "--eval_resize",
}  # fmt: skip
REQUIRED = ["--pretrained_feature_extractor", "somewhere"]


def pretrain(*flags: str) -> Pretrain:
    return parse(Pretrain, ["digits", "resnet18", *flags]).config


def values_of(declared: Field) -> st.SearchStrategy[Any]:
    """Any value that the field allows."""
    flag = declared.flag
    low = max(flag.low, flag.above, -1e9)
    high = min(flag.high, 1e9)
    single: st.SearchStrategy[Any] = {
        bool: st.booleans(),
        int: st.integers(math.ceil(low), math.floor(high)),
        float: st.floats(low, high, exclude_min=flag.above > -math.inf, allow_nan=False),
        str: st.sampled_from(sorted(flag.choices)) if flag.choices else st.text("abc", min_size=1),
    }[declared.kind]
    values = st.lists(single, min_size=1).map(tuple) if declared.many else single
    if declared.pair:
        values |= st.tuples(single, single).filter(lambda pair: pair[0] != pair[1])
    return st.none() | values if declared.optional else values


def attempt(build: Callable[[], Any]) -> tuple[Any, str]:
    """The result and "", or None and the message of a refusal, which only WITH_OTHER_RULES may cause."""
    try:
        return build(), ""
    except UserError as error:
        message = str(error)
    assert message.split(":")[0] in WITH_OTHER_RULES, message
    return None, message


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.data())
def test_a_config_survives_json(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(sorted(CONFIGS, key=lambda config: config.__name__)))
    values = {declared.name: data.draw(values_of(declared)) for declared in fields_of(config)}
    built, message = attempt(lambda: config(**values))
    if message:
        return
    assert config.from_dict(json.loads(json.dumps(dataclasses.asdict(built)))) == built


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.data())
def test_a_typed_value_reaches_its_config(data: st.DataObject) -> None:
    declared = data.draw(
        st.sampled_from([d for part in config_parts(Pretrain, "simclr").values() for d in fields_of(part)])
    )
    value = data.draw(values_of(declared).filter(lambda value: value is not None))
    if declared.flag.positional or declared.name == "method":
        return
    words = [
        repr(item) if isinstance(item, float) else str(item)
        for item in (value if isinstance(value, tuple) else (value,))
    ]
    flags = [f"--{'' if value else 'no_'}{declared.name}"] if declared.kind is bool else [f"--{declared.name}", *words]
    resolved, message = attempt(lambda: parse(Pretrain, ["digits", "resnet18", *flags]))
    if message:
        assert declared.name in message  # a rule over two fields names the one that was typed
        return
    values = {name: v for part in vars(resolved.config).values() for name, v in vars(part).items()}
    assert values[declared.name] == value
    assert resolved.origins[declared.name] == "typed"


def test_typed_beats_preset_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["simclr"], "preset", {"momentum": 0.5, "lr": 7.0})
    resolved = parse(Pretrain, ["digits", "resnet18", "--epochs", "3"])
    config, origins = resolved.config, resolved.origins
    assert (config.run.epochs, origins["epochs"]) == (3, "typed")
    assert (config.optim.lr, origins["lr"]) == (1e-3, "digits preset")
    assert (config.optim.momentum, origins["momentum"]) == (0.5, "simclr preset")
    assert (config.run.seed, origins["seed"]) == (0, "default")


def test_precedence_of_presets_is_data_set_with_method_then_data_set_then_flags_then_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(METHODS["simclr"], "preset", {"lr": 1.0, "hue": 0.1, "multicrop": True})
    monkeypatch.setattr("cl.config.programs.PRETRAIN_FLAGS", {"multicrop": {"lr": 2.0, "hue": 0.2, "min_scale": 0.2}})
    monkeypatch.setattr("cl.config.programs.PRETRAIN_DATASETS", {"stl10": {"lr": 3.0, "min_scale": 0.3}})
    monkeypatch.setattr(METHODS["simclr"], "dataset_presets", {"stl10": {"lr": 4.0}})
    resolved = parse(Pretrain, ["stl10", "resnet18"])
    optim, views, origins = resolved.config.optim, resolved.config.views, resolved.origins
    assert (optim.lr, origins["lr"]) == (4.0, "stl10 simclr preset")
    assert (views.min_scale, origins["min_scale"]) == (0.3, "stl10 preset")
    assert (views.hue, origins["hue"]) == (0.2, "multicrop preset")
    assert origins["multicrop"] == "simclr preset"
    without = parse(Pretrain, ["stl10", "resnet18", "--multicrop", "--no_multicrop"])
    assert (without.config.views.hue, without.origins["hue"]) == (0.1, "simclr preset")


def test_a_typed_optimizer_sets_its_preset_rates_unless_they_are_typed() -> None:
    resolved = parse(Pretrain, ["cifar10", "resnet18", "--optimizer", "adamw", "--classifier_lr", "0.5"])
    assert (resolved.config.optim.lr, resolved.origins["lr"]) == (1e-3, "adamw preset")
    assert (resolved.config.optim.classifier_lr, resolved.origins["classifier_lr"]) == (0.5, "typed")
    assert parse(Pretrain, ["cifar10", "resnet18", "--optimizer", "sgd"]).origins["lr"] == "cifar10 preset"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_typing_the_optimizer_that_holds_already_changes_nothing(method: str) -> None:
    optim = {"optim": config_parts(Pretrain, method)["optim"]}
    for dataset in DATASETS:
        for start in ({"encoder": "resnet18"}, {"encoder": "timm/vit_tiny"}, {"init_from": "weights.pth"}):
            typed = {"dataset": dataset, **start}
            untyped, _ = resolve_values(optim, preset_layers(Pretrain, typed, method))
            typed["optimizer"] = untyped["optim"]["optimizer"]
            assert resolve_values(optim, preset_layers(Pretrain, typed, method))[0] == untyped, typed


def test_every_preset_sets_a_declared_field_to_an_allowed_value() -> None:
    declared = {d.name for config in CONFIGS for d in fields_of(config)}
    layers = [presets.PRETRAIN_DATASETS, presets.PRETRAIN_FLAGS, presets.LINEAR_DATASETS, presets.PRETRAIN_OPTIMIZERS]
    layers += [{"cached": presets.CACHED, "grid": presets.CACHED_GRID}]
    layers += [{"": config.preset, **config.dataset_presets} for config in METHODS.values()]
    for preset in [preset for layer in layers for preset in layer.values()]:
        assert set(preset) <= declared
    assert {dataset for config in METHODS.values() for dataset in config.dataset_presets} <= set(DATASETS)
    for dataset in DATASETS:
        for method in METHODS:
            for flags in ([], [f"--{flag}" for flag in presets.PRETRAIN_FLAGS]):
                parse(Pretrain, [dataset, "resnet18", "--method", method, *flags])
    for dataset in presets.LINEAR_DATASETS:
        parse(Linear, [dataset, "resnet18", *REQUIRED])
        assert len(parse(Linear, [dataset, "resnet18", *REQUIRED, "--protocol", "cached"]).config.optim.grid) >= 20


def test_one_rate_is_one_pair_and_several_values_are_a_grid() -> None:
    for protocol in ([], ["--protocol", "cached"]):
        config = parse(Linear, ["digits", "resnet18", *REQUIRED, *protocol, "--lr", "0.5"]).config
        assert [(pair.lr, pair.weight_decay) for pair in config.optim.grid] == [(0.5, 0.0)]
    grid = parse(
        Linear, ["digits", "resnet18", *REQUIRED, "--lr", "3", "0.5", "3", "--weight_decay", "1e-4", "0"]
    ).config
    pairs = [(pair.lr, pair.weight_decay) for pair in grid.optim.grid]
    assert pairs == [(0.5, 0.0), (0.5, 1e-4), (3.0, 0.0), (3.0, 1e-4)]
    assert grid.optim.grid[0].momentum == grid.optim.momentum


@pytest.mark.parametrize("config", sorted(CONFIGS, key=lambda config: config.__name__))
def test_defaults_are_valid_and_configs_are_frozen(config: type[Config]) -> None:
    required = {"pretrained_feature_extractor": "somewhere"} if "LinearConfig" in config.__name__ else {}
    instance = config(**required)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(instance, fields_of(config)[0].name, None)


def test_a_methods_config_is_registered_under_its_own_name() -> None:
    assert {name: config().method for name, config in METHODS.items()} == {name: name for name in METHODS}


@pytest.mark.parametrize("program", [Pretrain, Linear])
def test_a_spelling_is_declared_once_in_a_program(program: type) -> None:
    for method in METHODS:
        parts = config_parts(program, method).values()
        spellings = [
            s for part in parts for d in fields_of(part) for s in (d.name, *d.flag.aliases, *d.flag.shorthands)
        ]
        assert len(spellings) == len(set(spellings))


def test_a_loaded_config_is_checked_like_a_typed_one() -> None:
    with pytest.raises(UserError, match="--temperature: got 0, expected a number above 0"):
        METHODS["simclr"].from_dict({"temperature": 0.0})
    with pytest.raises(UserError, match="temprature: no such field in SimCLRConfig"):
        METHODS["simclr"].from_dict({"temprature": 0.1})


def test_positionals_may_be_separated_and_supervised_selects_supcon_in_any_position() -> None:
    config = parse(Pretrain, ["digits", "--epochs", "3", "resnet50"]).config
    assert (config.backbone.encoder, config.run.epochs) == ("resnet50", 3)
    for flags in (["--supervised"], ["--supervised", "--method", "simclr"], ["--method", "simclr", "--supervised"]):
        assert pretrain(*flags).method.method == "supcon"
        assert type(pretrain(*flags).method) is METHODS["supcon"]


def test_aliases_and_shorthands_name_the_same_field() -> None:
    assert pretrain("--hidden_mlp", "64", "--encoding_dim", "32").method.proj_hidden_dim == 64
    assert pretrain("--dali").data.loader == "dali"
    assert pretrain("--dali", "--loader", "fast").data.loader == "fast"
    assert pretrain("--supervised").method.method == "supcon"
    assert pretrain("--no_lr_scheduler_for_pred_head").optim.lr_scheduler_for_pred_head is False


def test_the_last_one_typed_of_gpus_and_devices_wins() -> None:
    device = pretrain("--gpus", "0", "1", "--devices", "1", "--accelerator", "cpu").device
    assert (device.gpus, device.devices) == (None, 1)
    device = pretrain("--devices", "2", "--gpus", "0").device
    assert (device.gpus, device.devices) == ((0,), None)


def test_warm_up_is_a_tenth_of_the_run_unless_typed() -> None:
    assert pretrain().optim.warmup_steps(steps_per_epoch=5, horizon=60) == 6
    assert pretrain().optim.warmup_steps(steps_per_epoch=5, horizon=5000) == 50
    assert pretrain("--warmup_epochs", "3").optim.warmup_steps(steps_per_epoch=5, horizon=60) == 15
    with pytest.raises(UserError, match="--warmup_epochs: got 13"):
        pretrain("--warmup_epochs", "13").optim.warmup_steps(steps_per_epoch=5, horizon=60)


def test_rates_are_per_256_images_of_the_global_batch() -> None:
    optim = pretrain("--lr", "0.3", "--classifier_lr", "0.1").optim
    assert optim.scaled_lr(1024) == pytest.approx(1.2)
    assert optim.scaled_classifier_lr(128) == pytest.approx(0.05)
