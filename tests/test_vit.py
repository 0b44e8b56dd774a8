"""Vision transformers go through what ResNets go through: a tiny one with patches of 2 pixels, on 8-pixel digits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import cl
from cl.backbones import build_backbone
from cl.batch import Batch
from cl.cli import parse
from cl.config.backbone import BackboneConfig, is_transformer
from cl.config.programs import Pretrain
from cl.errors import UserError
from cl.methods import ContrastiveModule, build_method
from cl.methods.rehearsal import captured
from cl.optim.schedules import Budget
from cl.selfcheck import VIT, largest_errors, outcome
from tests import fixed_buffers
from tests.conftest import TINY, Run
from tests.kills import differences
from tests.pictures import write_classes
from tests.teachers import method_flags
from tests.test_embed import call
from tests.test_graphs import assert_same, random_batch, trained
from tests.test_methods import batch, double
from tests.test_ranks import CPU, IMAGES, agrees, pools
from tests.test_resume import AUTO, break_off
from tests.test_state import take_step, without_batch_norm

__all__ = ["pools"]  # the fixture

METHODS = ("simclr", "moco_v3", "dino")
PRETRAIN = "main_contrastive.py"
TINY_VIT = ["digits", VIT, "--patch_size", "2", *TINY[2:]]  # without --width
CROPS = ["--multicrop", "--small_crop_size", "6", "--n_small_crops", "2"]


def build(method: str, *flags: str) -> ContrastiveModule:
    config = parse(Pretrain, [*TINY_VIT, "--method", method, *flags]).config
    torch.manual_seed(0)
    return build_method(config, 4, Budget(16, 2, 10))


@pytest.mark.parametrize("name", [*METHODS, "distill"])
def test_three_steps_of_two_processes_are_those_of_one(pools: dict, name: str) -> None:
    flags = [VIT, "--method", name]
    assert agrees(pools[2].run(outcome, flags, IMAGES, torch.float64, CPU), flags)


@pytest.mark.parametrize("name", METHODS)
def test_so_they_are_with_small_crops_to_the_precision_of_their_positions(pools: dict, name: str) -> None:
    """timm interpolates position embeddings in float32, and their gradients; the rest is as exact as without crops."""
    flags = [VIT, "--method", name, "--multicrop"]
    one, found = outcome(flags, IMAGES, torch.float64, CPU), pools[2].run(outcome, flags, IMAGES, torch.float64, CPU)[0]
    assert max(largest_errors(found, one)) < 1e-7
    for each in (found.gradients, one.gradients):
        del each["backbone.pos_embed"]
    assert largest_errors(found, one).gradient < 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_to_the_bit_with_drop_path_and_accumulation(
    name: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*TINY_VIT, *CROPS, "--method", name, "--drop_path", "0.3", "--accumulate", "2", "--max_steps", "4"]
    flags += ["--checkpoint_every_n_steps", "1", "--batch_size", "16", "--knn_bank", "16", "--limit_eval", "32"]
    assert run(PRETRAIN, *flags, "--run_id", "alone")[0] == 0
    break_off(run, monkeypatch, 2, PRETRAIN, *flags, "--run_id", "killed", *AUTO)
    assert run(PRETRAIN, *flags, "--run_id", "killed", *AUTO)[0] == 0
    assert differences(folder / "trained_models/killed", folder / "trained_models/alone") == []


def test_two_batches_accumulated_are_one_for_dino() -> None:
    """Transformers have no batch norm; the head of the digits preset does."""
    whole = double(batch())
    halves = [
        Batch(whole.index[rows], tuple(views[:, rows] for views in whole.views), whole.target[rows])
        for rows in (slice(0, 8), slice(8, 16))
    ]
    modules = [build("dino", "--drop_path", "0").double() for _ in range(2)]
    for module in modules:
        without_batch_norm(module)
    for _ in range(3):
        take_step(modules[0], whole)
        take_step(modules[1], *halves)
    for (key, one), (_, two) in zip(modules[0].state_dict().items(), modules[1].state_dict().items(), strict=True):
        if not key.startswith("online_head"):  # labels are counted per batch there
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_replayed_networks_train_to_the_same_bits(name: str) -> None:
    modules = [build(name, *CROPS, "--drop_path", "0", "--lr", "0.05").double() for _ in range(2)]
    modules[1].replays = captured(modules[1], random_batch(99, 2), fixed_buffers.capture, None, False)
    assert_same(trained(modules[1], 2), trained(modules[0], 2))


@pytest.mark.parametrize("name", [*METHODS, "distill"])
def test_a_run_is_exported_to_timm_embedded_and_evaluated(
    name: str, run: Run, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*TINY_VIT, *CROPS, *method_flags(name), "--max_steps", "50", "--batch_size", "16", "--run_id", "vit"]
    code, out, err = run(PRETRAIN, *flags, "--verbose")
    assert (code, err) == (0, "")
    assert "transformer preset" in out
    assert re.search("collapse: std|partial collapse: |nothing learned: ", out)  # the verdict of the diagnostics
    net = timm.create_model("test_vit", num_classes=0, img_size=8, patch_size=2, dynamic_img_size=True)
    net.load_state_dict(load_file("trained_models/vit/backbone.safetensors"))
    backbone = cl.load_backbone("trained_models/vit")
    assert (backbone.card.patch_size, backbone.card.stem, backbone.num_features) == (2, None, 64)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.eval()(images), backbone(images))
        assert backbone(torch.randn(2, 3, 6, 6)).shape == (2, 64)
    evaluate = ["--pretrained_feature_extractor", "trained_models/vit", "--epochs", "1", "--run_id", "linear"]
    code, out, err = run("main_linear.py", "digits", VIT, *evaluate)
    assert (code, err) == (0, "")
    count = len(net.state_dict())
    assert f"{count} of {count} keys of {VIT} matched" in " ".join(out.split())
    knn = json.loads(Path("trained_models/linear/summary.json").read_text())["knn_k200_t0.1/val_top1"]
    assert knn == json.loads(Path("trained_models/vit/summary.json").read_text())["knn/val_top1"]
    write_classes(folder / "images", {"a": 3})
    assert call(capsys, monkeypatch, "trained_models/vit", "images", "--out", "f.npz", "--num_workers", "0")[0] == 0
    assert np.load("f.npz")["features"].shape == (3, 64)


def rates(network: torch.nn.Module) -> list[float]:
    return [module.drop_prob for module in network.modules() if type(module).__name__ == "DropPath"]


def test_drop_path_is_in_the_student_alone_and_reaches_its_rate_at_the_last_block() -> None:
    module = build("dino", "--drop_path", "0.3")
    expected = [rate for rate in (0.06, 0.12, 0.18, 0.24, 0.3) for _ in range(2)]
    assert rates(module.backbone) == pytest.approx(expected)
    assert set(rates(module.teacher)) == {0.0}
    images = batch().views[0]
    with torch.no_grad():
        first, again = (module.teach(images)[1] for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(module.encode(images, module.backbone), module.encode(images, module.backbone))
    assert rates(build("dino").backbone)[-1] == pytest.approx(0.1)  # the preset of transformers
    assert rates(build("simclr").backbone) == []


def test_a_network_without_the_option_is_refused() -> None:
    for encoder, option in (("timm/resnet18", {"patch_size": 4}), ("timm/vgg11", {"drop_path": 0.1})):
        with pytest.raises(UserError, match=r"--(patch_size|drop_path): got .*cannot be set"):
            build_backbone(BackboneConfig(encoder, **option), 32)


def test_transformers_have_their_own_presets_below_typed_flags_only() -> None:
    resolved = parse(Pretrain, ["cifar10", "timm/vit_tiny_patch16_224", "--patch_size", "4", "--method", "dino"])
    optim, origins = resolved.config.optim, resolved.origins
    assert (optim.optimizer, optim.lr, origins["lr"]) == ("adamw", 5e-4, "transformer preset")
    assert (optim.weight_decay, optim.weight_decay_end) == (0.04, 0.4)
    assert origins["weight_decay"] == origins["drop_path"] == "dino transformer preset"
    assert (optim.decay_biases_and_norms, optim.scheduler) == (False, "warmup_cosine")
    v3 = parse(Pretrain, ["imagenet", "timm/vit_small_patch16_224", "--method", "moco_v3", "--lr", "1"]).config.optim
    assert (v3.lr, v3.weight_decay, v3.decay_biases_and_norms) == (1.0, 0.1, True)
    adamw = parse(Pretrain, ["cifar10", VIT, "--optimizer", "adamw"])
    assert (adamw.config.optim.lr, adamw.origins["lr"]) == (5e-4, "transformer preset")
    sgd = parse(Pretrain, ["cifar10", VIT, "--optimizer", "sgd"]).config.optim
    assert (sgd.lr, sgd.weight_decay, sgd.decay_biases_and_norms) == (0.12, 5e-4, False)
    assert parse(Pretrain, ["cifar10", "timm/convnext_atto"]).config.optim.optimizer == "sgd"


def test_matrices_alone_decay_by_default() -> None:
    groups = build("simclr").configure_optimizers()["optimizer"].param_groups
    decays = {(p.ndim > 1, group["weight_decay"]) for group in groups[:-1] for p in group["params"]}
    assert decays == {(True, 0.05), (False, 0.0)}


def test_names_of_transformers_are_those_of_timms_modules() -> None:
    families = {"vision_transformer", "deit", "beit", "eva", "swin_transformer", "swin_transformer_v2", "cait", "xcit"}
    modules = {name: timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in timm.list_models()}
    named = {name for name in modules if is_transformer(f"timm/{name}")}
    in_families = {name for name, module in modules.items() if module in families}
    assert {"vit_small_patch16_224", "test_vit", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224"} <= named
    assert len(named & in_families) > 0.9 * len(in_families)
    others = {modules[name] for name in named} - families
    assert all("vi" in module or "swin" in module for module in others), others
    assert is_transformer("timm/vit_base_patch16_224.augreg_in21k")
    assert not any(map(is_transformer, ("resnet18", "timm/vitamin_small_224", "timm/maxvit_tiny_tf_224")))
