"""Continued pretraining: rates of the backbone and its layers, a backbone that is frozen at first, its batch norms."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cl.backbones import build_backbone
from cl.backbones.layers import layers_of
from cl.batch import Batch
from cl.cli import parse
from cl.config.backbone import BackboneConfig
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.methods import ContrastiveModule
from cl.methods.rehearsal import captured
from cl.run.start.devices import Devices, why_no_graphs
from cl.selfcheck import VIT, outcome
from tests import fixed_buffers
from tests.conftest import TINY, Run
from tests.kills import differences
from tests.test_graphs import assert_same, random_batch, trained
from tests.test_methods import batch, build
from tests.test_ranks import CPU, IMAGES, agrees, pools
from tests.test_resume import AUTO, break_off
from tests.test_state import TAKEN

__all__ = ["pools"]  # the fixture

PRETRAIN = "main_contrastive.py"
SHORT = ["digits", "resnet18", *TINY, "--knn_every", "9", "--batch_size", "256"]  # five steps an epoch
FIRST = "trained_models/first"


# Presets.


def test_a_run_that_starts_from_weights_has_its_own_presets_below_typed_flags_and_transformers() -> None:
    start = ["custom", "resnet18", "--init_from", "x"]
    resolved = parse(Pretrain, start)
    config = resolved.config
    assert (config.optim.optimizer, config.optim.lr, config.optim.backbone_lr_factor) == ("adamw", 1e-3, 0.1)
    assert config.backbone.renew_statistics == "never"
    names = ("optimizer", "lr", "classifier_lr", "backbone_lr_factor", "renew_statistics")
    assert {resolved.origins[name] for name in names} == {"continued preset"}
    digits = parse(Pretrain, ["digits", *start[1:], "--method", "byol"])
    assert (digits.config.optim.lr, digits.origins["lr"]) == (1e-3, "continued preset")
    sgd = parse(Pretrain, [*start, "--optimizer", "sgd", "--renew_statistics", "learning"])
    assert (sgd.config.optim.lr, sgd.origins["lr"], sgd.config.optim.backbone_lr_factor) == (0.3, "default", 0.1)
    assert (sgd.config.backbone.renew_statistics, sgd.origins["renew_statistics"]) == ("learning", "typed")
    vit = parse(Pretrain, ["custom", "timm/vit_tiny_patch16_224", *start[2:]])
    assert (vit.config.optim.lr, vit.origins["lr"]) == (5e-4, "transformer preset")
    assert vit.config.optim.backbone_lr_factor == 0.1
    random = parse(Pretrain, start[:2])
    assert "continued preset" not in random.origins.values()
    assert (random.config.optim.backbone_lr_factor, random.config.backbone.renew_statistics) == (1.0, "learning")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_starts_from_the_weights_and_keeps_their_statistics(name: str, start_from: str) -> None:
    """Its teacher, too; weights move from the first step on."""
    module = build(name, "--init_from", start_from)
    weights = {f"backbone.{key}": value for key, value in load_file(start_from).items()}
    weights |= {f"teacher.{key}": value for key, value in weights.items() if f"teacher.{key}" in module.state_dict()}
    assert all(equal(backbones(module), weights).values())
    step(module, module.configure_optimizers()["optimizer"], batch())
    moved = {key for key, same in equal(backbones(module), weights).items() if not same}
    assert not any("running" in key or "tracked" in key for key in moved)
    learned = {f"backbone.{key}" for key, _ in module.backbone.named_parameters()}
    assert learned <= moved


@pytest.fixture(scope="module")
def start_from(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the weights of a ResNet-18 that has seen a batch."""
    backbone = build_backbone(BackboneConfig("resnet18", width=4), 8)
    backbone(batch().views[0][0])
    file = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_file(backbone.state_dict(), file)
    return str(file)


# Layers.


def names_by_layer(encoder: str, size: int = 32) -> list[set[str]]:
    """The modules of each layer, by the first two parts of their names."""
    backbone = build_backbone(BackboneConfig(encoder), size)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    layers = layers_of(backbone) or []
    assert sorted(id(p) for layer in layers for p in layer) == sorted(names)
    return [{".".join(names[id(p)].split(".")[:2]) for p in layer} for layer in layers]


@pytest.mark.parametrize("encoder", ["resnet18", "timm/resnet18", "resnet50"])
def test_the_layers_of_a_resnet_are_its_stem_and_its_stages(encoder: str) -> None:
    stem, *stages = names_by_layer(encoder)
    assert stem == {"conv1.weight", "bn1.weight", "bn1.bias"}
    assert [{name.split(".")[0] for name in stage} for stage in stages] == [{f"layer{n}"} for n in (1, 2, 3, 4)]


def test_the_layers_of_a_transformer_are_its_embedding_and_its_blocks_the_final_norm_with_the_last() -> None:
    embedding, *blocks = names_by_layer(VIT, 160)
    assert {"cls_token", "pos_embed", "patch_embed.proj"} <= embedding
    assert [block - {"norm.weight", "norm.bias"} for block in blocks] == [{f"blocks.{n}"} for n in range(len(blocks))]
    assert len(blocks) == len(timm.create_model("test_vit").blocks)
    assert {"norm.weight", "norm.bias"} <= blocks[-1]


def test_the_layers_of_another_network_are_those_that_timm_groups() -> None:
    layers = names_by_layer("timm/tf_efficientnet_lite0")
    assert layers[0] == {"conv_stem.weight", "bn1.weight", "bn1.bias"}
    assert [layer - {"conv_head.weight", "bn2.weight", "bn2.bias"} for layer in layers[1:3]] == [
        {"blocks.0"},
        {"blocks.1"},
    ]
    assert {"blocks.6", "conv_head.weight", "bn2.weight"} <= layers[-1]
    assert len(layers) == 1 + sum(map(len, timm.create_model("tf_efficientnet_lite0").blocks))


# Rates.


def rates_of(module: ContrastiveModule) -> dict[str, float]:
    """The learning rate of each parameter that learns."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = [(names[id(p)], group["initial_lr"]) for group in groups for p in group["params"]]
    assert len(dict(rates)) == len(rates)
    return dict(rates)


RATES = ["--lr", "1.6", "--classifier_lr", "3.2", "--backbone_lr_factor", "0.5", "--layer_decay", "0.8"]  # 1.6 -> 0.1
ADAPTED = ["--optimizer", "sgd", "--lars"], ["--no_decay_biases_and_norms"]


@pytest.mark.parametrize("flags", [[], *ADAPTED])
@pytest.mark.parametrize("name", METHODS)
def test_each_layer_learns_at_a_multiple_of_the_rate_of_the_layer_above_it(name: str, flags: list[str]) -> None:
    """Of all methods and optimizers; heads keep the rate of --lr, and the online head its own."""
    if flags and name not in ("simclr", "dino"):
        pytest.skip("the groups do not depend on the method")
    rates = rates_of(build(name, *RATES, *flags))
    expected = {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}
    for parameter, rate in rates.items():
        part, _, rest = parameter.partition(".")
        if part == "backbone":
            assert rate == pytest.approx(0.1 * 0.5 * 0.8 ** expected[rest.split(".")[0]]), parameter
        else:
            assert rate == pytest.approx(0.2 if part == "online_head" else 0.1), parameter
    module = build(name)
    assert rates.keys() == {key for key, parameter in module.named_parameters() if parameter.requires_grad}


def test_a_transformers_rates_fall_block_by_block_also_with_frozen_patches() -> None:
    flags = ["--method", "moco_v3", "--patch_size", "2", *RATES]
    config = parse(Pretrain, ["digits", VIT, *flags]).config
    from cl.methods import build_method
    from cl.optim.schedules import Budget

    rates = rates_of(build_method(config, 4, Budget(16, 2, 10)))
    blocks = len(timm.create_model("test_vit").blocks)
    assert rates["backbone.norm.weight"] == pytest.approx(0.05 * 0.8)
    for block in range(blocks):
        assert rates[f"backbone.blocks.{block}.norm1.weight"] == pytest.approx(0.05 * 0.8 ** (blocks - block))
    assert rates["backbone.cls_token"] == pytest.approx(0.05 * 0.8 ** (blocks + 1))
    assert "backbone.patch_embed.proj.weight" not in rates


def test_without_the_flags_there_are_the_groups_of_old_checkpoints() -> None:
    module = build("byol")
    groups = module.configure_optimizers()["optimizer"].param_groups
    parts = [{names[id(p)].split(".")[0] for p in group["params"]} for group in groups for names in [ids(module)]]
    assert parts == [{"backbone", "projector"}, {"predictor"}, {"online_head"}]


def ids(module: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in module.named_parameters()}


def test_the_logged_rate_is_that_of_the_heads(run: Run, folder: Path) -> None:
    flags = [*SHORT, "--scheduler", "none", "--lr", "0.01", "--backbone_lr_factor", "0.1", "--layer_decay", "0.5"]
    assert run(PRETRAIN, *flags, "--max_steps", "1", "--run_id", "run")[0] == 0
    assert json.loads(Path("trained_models/run/summary.json").read_text())["lr"] == 0.01


# A frozen backbone.


def backbones(module: ContrastiveModule) -> dict[str, Tensor]:
    """Parameters and buffers of the student's backbone and of a teacher's."""
    return {k: v.clone() for k, v in module.state_dict().items() if k.startswith(("backbone.", "teacher.backbone."))}


def step(module: ContrastiveModule, optimizer: torch.optim.Optimizer, images: Batch) -> None:
    optimizer.zero_grad()
    module.training_step(images, 0).backward()
    module.prepare_gradients(optimizer)
    optimizer.step()
    module.after_step(TAKEN)
    module.step_index += 1


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, bool]:
    return {name: torch.equal(found[name], tensor) for name, tensor in expected.items()}


@pytest.mark.parametrize("flags", [["--optimizer", "adamw"], ["--optimizer", "sgd", "--lars", "--layer_decay", "0.7"]])
@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_backbone_keeps_every_bit_and_an_empty_state_until_its_step(name: str, flags: list[str]) -> None:
    """Weights and batch statistics, a teacher's too, for an epoch of two steps; then everything moves."""
    if "--lars" in flags and name not in ("simclr", "byol"):
        pytest.skip("the groups do not depend on the method")
    decay = ["--weight_decay", "0.1", "--no_zero_init_residual"]
    module = build(name, "--freeze_backbone_epochs", "1", *decay, *flags)
    optimizer = module.configure_optimizers()["optimizer"]
    start = backbones(module)
    heads = {key: p.clone() for key, p in module.projector.named_parameters() if p.ndim > 1}
    for number in range(4):
        step(module, optimizer, batch())
        frozen = number < 2
        assert all(equal(backbones(module), start).values()) == frozen
        assert {p in optimizer.state for p in module.backbone.parameters()} == {not frozen}
    moved = equal(backbones(module), start)
    assert not any(same for key, same in moved.items() if key.startswith("backbone.")), moved
    assert not any(equal(dict(module.projector.named_parameters()), heads).values())


def modes(module: ContrastiveModule) -> set[bool]:
    """Whether the batch norms of backbones are in training mode."""
    networks = [m for name, m in module.named_modules() if name in ("backbone", "teacher.backbone")]
    return {part.training for network in networks for part in network.modules() if isinstance(part, _BatchNorm)}


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_batch_statistics_are_renewed_while_the_backbone_learns_always_or_never(
    name: str, run: Run, folder: Path
) -> None:
    assert run(PRETRAIN, *SHORT, "--fast_dev_run", "--run_id", "first")[0] == 0
    freeze = ["--freeze_backbone_epochs", "1", "--init_from", FIRST]
    for choice, expected in (("learning", (False, True)), ("always", (True, True)), ("never", (False, False))):
        module = build(name, *freeze, "--renew_statistics", choice, "--proj_output_dim", "8")
        module.eval()
        module.train()  # as after an evaluation
        assert modes(module) == {expected[0]}
        module.step_index = 2
        assert modes(module) == {expected[1]}
        heads = [part for part in module.projector.modules() if isinstance(part, _BatchNorm)]
        assert all(part.training for part in heads)


def test_kept_statistics_do_not_move_while_the_weights_do(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *SHORT, "--fast_dev_run", "--run_id", "first")[0] == 0
    module = build("simclr", "--init_from", FIRST, "--renew_statistics", "never", "--lr", "0.1")
    optimizer = module.configure_optimizers()["optimizer"]
    start = backbones(module)
    step(module, optimizer, batch())
    kept = {key for key, same in equal(backbones(module), start).items() if same}
    assert kept == {key for key in start if "running" in key or "tracked" in key}


def test_a_frozen_backbone_costs_no_backward_pass() -> None:
    module = build("simclr", "--freeze_backbone_epochs", "1")
    output = module.step(batch())
    assert not output.features.requires_grad
    assert output.loss.requires_grad
    module.step_index = 2
    assert module.step(batch()).features.requires_grad


ONE_STEP = ["--freeze_backbone_epochs", "0.34"]  # of three
FROZEN = [*ONE_STEP, "--layer_decay", "0.7", "--backbone_lr_factor", "0.5"]


@pytest.mark.parametrize(("name", "size"), [("simclr", 2), ("byol", 2), ("dino", 3), ("barlow_twins", 3)])
def test_three_steps_of_which_the_first_is_frozen_are_those_of_one_process(pools: dict, name: str, size: int) -> None:
    flags = ["--method", name, *FROZEN]
    assert agrees(pools[size].run(outcome, flags, IMAGES, torch.float64, CPU), flags)


def test_exact_negatives_of_a_frozen_backbone_are_one_batch() -> None:
    losses = []
    for flags in ([], ["--accumulate", "2", "--exact_negatives"]):
        module = build("simclr", "--freeze_backbone_epochs", "1", *flags).double()
        images = Batch(batch().index, (batch().views[0].double(),), batch().target)
        losses.append(module.step(images).loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)


CONTINUED = ["--init_from", FIRST, "--max_steps", "12", "--checkpoint_every_n_steps", "1", *FROZEN]


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_a_continued_run_that_is_killed_while_frozen_and_later_resumes_to_the_bit(
    method: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(PRETRAIN, *SHORT, "--fast_dev_run", "--run_id", "first")[0] == 0
    flags = [*SHORT, "--method", method, *CONTINUED, "--freeze_backbone_epochs", "1.2"]  # six steps
    assert run(PRETRAIN, *flags, "--run_id", "whole")[0] == 0
    for at in (3, 6, 9):
        break_off(run, monkeypatch, at, PRETRAIN, *flags, "--run_id", "broken", *AUTO)
    assert run(PRETRAIN, *flags, "--run_id", "broken", *AUTO)[0] == 0
    assert differences(folder / "trained_models/broken", folder / "trained_models/whole") == []


@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_a_run_that_is_frozen_to_its_end_exports_the_weights_it_started_from(
    method: str, run: Run, folder: Path
) -> None:
    assert run(PRETRAIN, *SHORT, "--fast_dev_run", "--run_id", "first")[0] == 0
    flags = [*SHORT, "--method", method, "--init_from", FIRST, "--epochs", "1", "--freeze_backbone_epochs", "1"]
    code, out, err = run(PRETRAIN, *flags, "--run_id", "same")
    assert (code, err) == (0, "")
    assert "--freeze_backbone_epochs 1 is the whole run: the backbone stays as it starts" in " ".join(out.split())
    first, same = (load_file(f"trained_models/{name}/backbone.safetensors") for name in ("first", "same"))
    assert all(equal(first, same).values())


def test_random_weights_that_are_frozen_are_a_warning(run: Run, folder: Path) -> None:
    code, out, _ = run(PRETRAIN, *SHORT, "--freeze_backbone_epochs", "1", "--dry_run")
    assert code == 0
    assert "--freeze_backbone_epochs 1 without --init_from freezes random weights" in " ".join(out.split())


def test_networks_are_replayed_with_kept_statistics_but_not_if_the_backbone_is_frozen_at_first(
    run: Run, folder: Path
) -> None:
    assert run(PRETRAIN, *SHORT, "--fast_dev_run", "--run_id", "first")[0] == 0
    keep = ["--init_from", FIRST, "--renew_statistics", "never", "--lr", "0.05"]
    modules = [build("byol", *keep).double() for _ in range(2)]
    modules[1].replays = captured(modules[1], random_batch(99), fixed_buffers.capture, None, False)
    assert_same(trained(modules[1]), trained(modules[0]))
    config = parse(Pretrain, [*SHORT, "--freeze_backbone_epochs", "1"]).config
    assert "--freeze_backbone_epochs changes" in why_no_graphs(config, Devices("gpu", 1))
