"""timm's networks are backbones like any other: built for the image size, or refused in one line."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cl.backbones import build_backbone
from cl.backbones.loading import load_all_weights
from cl.cli import parse
from cl.config.backbone import BackboneConfig
from cl.config.programs import Pretrain
from cl.errors import UserError
from cl.methods import build_method
from cl.nn.batch_norm import synchronized
from cl.optim.schedules import Budget
from tests.conftest import Run

timm = pytest.importorskip("timm")
VIT, MIXER, CONVNEXT, MOBILENET = "vit_tiny_patch16_224", "mixer_s32_224", "convnext_atto", "mobilenetv3_small_050"


def build_timm(name: str, *sizes: int, channels: int = 3) -> nn.Module:
    other_sizes = {"multicrop with --small_crop_size": sizes[1]} if len(sizes) > 1 else {}
    return build_backbone(BackboneConfig(f"timm/{name}"), sizes[0], channels, other_sizes)


@pytest.mark.parametrize("name", [VIT, CONVNEXT, MOBILENET, "resnet18"])
def test_features_equal_timms_for_any_channels_and_have_the_declared_width(name: str) -> None:
    net = build_timm(name, 64, channels=1)
    assert net.training
    theirs = timm.create_model(name, num_classes=0, in_chans=1, **({"img_size": 64} if name == VIT else {}))
    theirs.load_state_dict(net.state_dict())
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        features = net.eval()(images)
        assert torch.equal(features, theirs.eval()(images))
    assert features.shape == (2, net.num_features)
    assert not [key for key in net.state_dict() if key.startswith(("head.weight", "fc.", "classifier."))]


def test_a_vision_transformer_accepts_the_crop_size_and_small_crops() -> None:
    net = build_timm(VIT, 48, 32)
    assert net.pos_embed.shape == (1, 1 + 9, 192)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 192)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (VIT, (8,), "--crop_size: got views of 8 pixels, expected a size that timm/vit_tiny_patch16_224 accepts"),
        (VIT, (32, 24), "--multicrop with --small_crop_size: got views of 24 pixels"),
        (MIXER, (64, 32), "--multicrop with --small_crop_size: got views of 32 pixels"),
        (CONVNEXT, (8,), "--crop_size: got views of 8 pixels"),
    ],
)
def test_an_image_size_that_a_network_does_not_support_is_refused(
    name: str, sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        build_timm(name, *sizes)
    assert "\n" not in str(error.value)


def test_an_unsupported_small_crop_size_is_refused_when_the_method_is_built() -> None:
    typed = ["cifar10", f"timm/{VIT}", "--multicrop", "--crop_size", "32"]
    with pytest.raises(UserError, match="--multicrop with --small_crop_size: got views of 24 pixels"):
        build_method(parse(Pretrain, typed).config, classes=0, budget=Budget(16, 2, 10))


@pytest.mark.parametrize("name", [VIT, "resnet18"])
def test_weights_of_timm_are_loaded_completely(name: str) -> None:
    size = {"img_size": 32} if name == VIT else {}
    weights = timm.create_model(name, **size).state_dict()
    net = build_timm(name, 32)
    report = load_all_weights(
        net, {f"module.base_encoder.{key}": w for key, w in weights.items()}, "--x: got x", f"timm/{name}"
    )
    assert all(torch.equal(w, weights[key]) for key, w in net.state_dict().items())
    assert f"{len(net.state_dict())} of {len(net.state_dict())} keys of timm/{name} matched" in report
    assert report.endswith("left over: head (2)" if name == VIT else "left over: fc (2)")


def test_weights_for_another_image_size_or_a_deeper_network_are_refused() -> None:
    weights = timm.create_model(VIT).state_dict()
    with pytest.raises(UserError, match=r"of another shape: 1 \(pos_embed\); try another --crop_size"):
        load_all_weights(build_timm(VIT, 32), weights, "--x: got x", f"timm/{VIT}")
    deeper = timm.create_model(VIT, img_size=32, depth=13).state_dict()
    with pytest.raises(UserError, match=r"of layers that the encoder does not have: 12 \(blocks.12"):
        load_all_weights(build_timm(VIT, 32), deeper, "--x: got x", f"timm/{VIT}")


def test_batch_norm_over_all_processes_keeps_timms_activations() -> None:
    torch.manual_seed(0)
    net, images = build_timm(MOBILENET, 32), torch.randn(4, 3, 32, 32)
    synchronized_net = build_timm(MOBILENET, 32)
    synchronized_net.load_state_dict(net.state_dict())
    synchronized_net = synchronized(synchronized_net, "cpu")
    assert list(synchronized_net.state_dict()) == list(net.state_dict())
    for mode in (True, False):
        with torch.no_grad():
            assert torch.equal(net.train(mode)(images), synchronized_net.train(mode)(images))
    converted = synchronized(build_timm(MOBILENET, 32), "gpu")
    kinds = {type(module).__name__ for module in converted.modules()}
    assert "SyncBatchNormAct" in kinds
    assert not any(type(module) is nn.SyncBatchNorm and list(module.children()) for module in converted.modules())


def test_a_vision_transformer_is_pretrained_and_evaluated(run: Run, folder: Path) -> None:
    size = ["--crop_size", "16", "--batch_size", "32"]
    flags = [*size, "--small_crop_size", "16", "--multicrop", "--n_small_crops", "1", "--method", "simsiam"]
    code, out, err = run("main_contrastive.py", "digits", f"timm/{VIT}", *flags, "--fast_dev_run", "--run_id", "vit")
    assert (code, err) == (0, "")
    assert "stem" not in out
    assert "zero_init_residual" not in out
    evaluate = ["--pretrained_feature_extractor", "trained_models/vit", "--fast_dev_run", *size]
    code, out, err = run("main_linear.py", "digits", f"timm/{VIT}", *evaluate)
    assert (code, err) == (0, "")
    assert f"150 of 150 keys of timm/{VIT} matched: under backbone.*" in " ".join(out.split())
    code, out, err = run("main_linear.py", "digits", f"timm/{VIT}", *evaluate, "--crop_size", "32")
    assert (code, err) == (0, "")
    assert "--crop_size 32, but the backbone was pretrained at 16 pixels" in " ".join(out.split())
    code, out, err = run("main_linear.py", "digits", f"timm/{VIT}", *evaluate, "--crop_size", "20")
    assert (code, err.count("\n")) == (2, 1)
    assert "--crop_size: got views of 20 pixels" in err


def test_a_network_without_pooled_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl.backbones.timm.create", lambda name, size, channels, options: nn.Conv2d(channels, 4, 3))
    with pytest.raises(UserError, match="encoder: got timm/mixer_s32_224, which has no pooled features"):
        build_timm(MIXER, 32)
