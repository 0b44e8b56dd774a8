"""The backbones equal torchvision's except for the stem for small images and the width."""

import pytest
import torch
import torchvision

from cl.backbones import build_backbone
from cl.config.backbone import BackboneConfig


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_torchvisions_weights_give_identical_features(encoder: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(encoder, weights=None).eval()
    ours = build_backbone(BackboneConfig(encoder), 224).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert ours.state_dict().keys() == weights.keys()
    ours.load_state_dict(weights)
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        features = ours(images)
        assert torch.equal(features, theirs(images))
    assert features.shape == (2, ours.num_features)


def test_the_same_seed_gives_torchvisions_initial_weights() -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.manual_seed(3)
    ours = build_backbone(BackboneConfig("resnet18"), 224).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_stem_keeps_the_resolution_up_to_64_pixels() -> None:
    small = build_backbone(BackboneConfig("resnet18"), 64)
    assert (small.conv1.kernel_size, small.conv1.stride, small.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(small.maxpool, torch.nn.Identity)
    assert build_backbone(BackboneConfig("resnet18"), 65).conv1.stride == (2, 2)
    assert build_backbone(BackboneConfig("resnet18", stem="small"), 224).conv1.stride == (1, 1)
    assert build_backbone(BackboneConfig("resnet18", stem="large"), 32).conv1.stride == (2, 2)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["small", "large"])
def test_a_quarter_of_the_width_has_a_sixteenth_of_the_weights(encoder: str, stem: str) -> None:
    full, quarter = (build_backbone(BackboneConfig(encoder, stem=stem, width=width), 32) for width in (64, 16))
    counts = [sum(p.numel() for p in net.parameters() if p.ndim == 4) for net in (full, quarter)]
    assert counts[0] / counts[1] == pytest.approx(16, rel=0.02)
    assert quarter(torch.randn(2, 3, 32, 32)).shape == (2, quarter.num_features)
    assert quarter.num_features * 4 == full.num_features


def test_zero_init_residual_starts_each_branch_at_zero() -> None:
    net = build_backbone(BackboneConfig("resnet18", zero_init_residual=True), 32)
    assert all((block.bn2.weight == 0).all() for block in net.layer1)
