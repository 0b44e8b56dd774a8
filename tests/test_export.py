"""Exports of a run: weights that torchvision and timm load, a card, and `cl.load_backbone`."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import cl
import main_contrastive
from cl.backbones.card import Card
from cl.data.decoding.decode import read_image
from cl.data.executors.torchvision import apply_eval, normalize
from cl.data.views.spec import EvalSpec
from cl.errors import UserError
from cl.run.folder.atomic_files import write_atomically
from cl.run.weights.export import export
from tests.conftest import ROOT, Run
from tests.pictures import GOOD, write_classes, write_odd

LINEAR = "main_linear.py"
VIT = "vit_tiny_patch16_224"
CARD = Card("resnet18", "small", 4, 3, 32, 32, (0.5,) * 3, (0.5,) * 3, ("a",), "simclr", {"loss": 1.0}, "0.1.0")


def torchvision_resnet18(small: bool) -> nn.Module:
    """Plain torchvision, as another user would build it from the card."""
    net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    if small:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net


PLAIN = {  # encoder, stem, view size, and the same network without cl
    "small": ("resnet18", "small", 32, lambda: torchvision_resnet18(small=True)),
    "large": ("resnet18", "large", 64, lambda: torchvision_resnet18(small=False)),
    "timm": ("timm/resnet18", None, 64, lambda: timm.create_model("resnet18", num_classes=0)),
    "vit": (f"timm/{VIT}", None, 32, lambda: timm.create_model(VIT, num_classes=0, img_size=32)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_an_exported_backbone_computes_the_same_bits_in_plain_torchvision_and_timm(name: str, tmp_path: Path) -> None:
    encoder, stem, size, build = PLAIN[name]
    card = replace(CARD, encoder=encoder, stem=stem, width=64 if stem else None, crop_size=size)
    trained, net, images = card.build(), build(), torch.randn(4, 3, size, size)
    trained(images)  # updates the running statistics of the batch norms
    export(trained, card, tmp_path)
    net.load_state_dict(load_file(tmp_path / "backbone.safetensors"))  # strict
    ours = cl.load_backbone(tmp_path / "backbone.safetensors")
    with torch.no_grad():
        features = trained.eval()(images)
        assert torch.equal(features, net.eval()(images))
        assert torch.equal(features, ours(images))
    assert features.shape == (4, ours.num_features)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on photographs of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    write_classes(folder / "train", {"cat": 40, "dog": 30})
    flags = ["--train_dir", str(folder / "train"), "--crop_size", "80", "--batch_size", "16", "--fast_dev_run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        main_contrastive.main(["custom", "resnet18", *flags, "--output_dir", str(folder), "--run_id", "run"])
    return folder / "run"


def test_exported_weights_equal_the_checkpoint_and_load_into_torchvision(photos: Path) -> None:
    exported = load_file(photos / "backbone.safetensors")
    trained = torch.load(photos / "last.ckpt", weights_only=True)["state_dict"]
    assert exported.keys() == {key.removeprefix("backbone.") for key in trained if key.startswith("backbone.")}
    assert all(torch.equal(w, trained[f"backbone.{key}"]) for key, w in exported.items())
    torchvision_resnet18(small=False).load_state_dict(exported)
    assert not list(photos.glob(".*"))


def test_the_card_describes_the_backbone_and_its_training(photos: Path) -> None:
    card = json.loads((photos / "backbone.json").read_text())
    facts = torch.load(photos / "last.ckpt", weights_only=True)["cl"]
    assert card == {
        "encoder": "resnet18",
        "stem": "large",
        "width": 64,
        "in_channels": 3,
        "crop_size": 80,
        "resize": 91,
        "mean": list(facts["norm"][0]),
        "std": list(facts["norm"][1]),
        "classes": ["cat", "dog"],
        "method": "simclr",
        "metrics": {
            k: v for k, v in json.loads((photos / "summary.json").read_text()).items() if "images_per" not in k
        },
        "cl": cl.__version__,
        "format": 1,
        "patch_size": None,
        "norm_origin": "measured on 70 training images",
        "interpolation": "bilinear",
        "teacher": None,
    }


def test_every_way_to_name_a_run_loads_the_same_backbone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "moved.safetensors").write_bytes((photos / "backbone.safetensors").read_bytes())
    (tmp_path / "backbone.safetensors").write_bytes((photos / "backbone.safetensors").read_bytes())
    images, first = torch.randn(2, 3, 80, 80), cl.load_backbone(photos)
    assert not first.training
    sources = photos / "last.ckpt", photos / "backbone.safetensors", tmp_path / "moved.safetensors", tmp_path
    for backbone in map(cl.load_backbone, map(str, sources)):
        assert torch.equal(backbone(images), first(images))
        assert replace(backbone.card, metrics={}) == replace(first.card, metrics={})


def test_the_transform_of_a_backbone_gives_the_evaluation_view(photos: Path, tmp_path: Path) -> None:
    write_odd(tmp_path)
    backbone = cl.load_backbone(photos)
    norm = backbone.card.mean, backbone.card.std
    for name in GOOD:
        view = normalize(apply_eval(read_image(tmp_path / name), EvalSpec(80)), norm)
        assert torch.equal(backbone.transform(Image.open(tmp_path / name)), view), name


def test_linear_evaluation_loads_an_exported_backbone(run: Run, photos: Path) -> None:
    flags = ["--train_dir", str(photos.parent / "train"), "--crop_size", "80", "--batch_size", "16", "--fast_dev_run"]
    pretrained = ["--pretrained_feature_extractor", str(photos / "backbone.safetensors")]
    code, out, err = run(LINEAR, "custom", "resnet18", *flags, *pretrained)
    assert (code, err) == (0, "")
    assert "120 of 120 keys of resnet18 matched" in " ".join(out.split())
    assert "assumed" not in out
    code, _, err = run(LINEAR, "custom", "resnet50", *flags, *pretrained)
    assert (code, "encoder: got resnet50, expected resnet18" in err) == (2, True)


def test_a_card_survives_json_and_nan_becomes_null() -> None:
    assert Card.from_json(CARD.to_json()) == CARD
    assert json.loads(replace(CARD, metrics={"loss": math.nan}).to_json())["metrics"] == {"loss": None}


@pytest.mark.parametrize(
    "card",
    ["{}", "[]", "<html>", CARD.to_json().replace('"format": 1', '"format": 2'), CARD.to_json().replace("mean", "x")],
)
def test_an_invalid_card_is_refused(card: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", {"card": card})
    with pytest.raises(UserError, match="is not a checkpoint of"):
        cl.load_backbone(tmp_path / "a.safetensors")


def test_load_backbone_refuses_weights_without_a_card(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="expected a run of"):
        cl.load_backbone(tmp_path / "a.safetensors")


def test_a_failed_atomic_write_leaves_only_the_previous_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "a", lambda file: [file.write(b"half"), file.write(1)])  # type: ignore[arg-type]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_importing_cl_does_not_import_torch() -> None:
    check = "import sys, cl; assert cl.__version__ and not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        cl.no_such_attribute  # noqa: B018
