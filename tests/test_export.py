"""What a run leaves for others: weights that torchvision and timm load, a card, and `cl.load_backbone`."""

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
from cl.backbones.card import Card
from cl.errors import UserError
from cl.run.export import whole
from tests.conftest import ROOT, TINY, Run
from tests.pictures import GOOD, write_classes, write_odd

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
SHORT = ["--batch_size", "32", "--fast_dev_run", "--run_id", "run"]


def torchvisions(small: bool) -> nn.Module:
    """Plain torchvision, as a stranger would build it from the card."""
    net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    if small:
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net


PLAIN = {
    "small": (["resnet18"], lambda: torchvisions(small=True)),
    "large": (["resnet18", "--stem", "large"], lambda: torchvisions(small=False)),
    "timm": (["timm/resnet18"], lambda: timm.create_model("resnet18", num_classes=0)),
    "vit": (
        ["timm/vit_tiny_patch16_224", "--crop_size", "16"],
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=16),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_exported_backbone_gives_the_same_bits_in_plain_torchvision_and_timm(
    name: str, run: Run, folder: Path
) -> None:
    flags, build = PLAIN[name]
    assert run(PRETRAIN, "digits", *flags, *SHORT)[::2] == (0, "")
    exported = load_file("trained_models/run/backbone.safetensors")
    trained = torch.load("trained_models/run/last.ckpt", weights_only=True)["state_dict"]
    assert exported.keys() == {key.removeprefix("backbone.") for key in trained if key.startswith("backbone.")}
    assert all(torch.equal(w, trained[f"backbone.{key}"]) for key, w in exported.items())
    net = build()
    net.load_state_dict(exported)  # strict
    size = 16 if name == "vit" else 8
    images = torch.randn(4, 3, size, size)
    ours = cl.load_backbone("trained_models/run")
    with torch.no_grad():
        features = ours(images)
        assert torch.equal(features, net.eval()(images))
    assert features.shape == (4, ours.num_features)
    assert not list(Path("trained_models/run").glob(".*"))


@pytest.fixture
def photos(run: Run, folder: Path) -> Path:
    """A run on odd photographs, of two classes."""
    write_classes(folder / "train", {"cat": 40, "dog": 30})
    size = ["--crop_size", "48", "--gaussian_prob", "0"]
    flags = [*TINY, "--train_dir", "train", "--stem", "large", *size, "--fast_dev_run", "--run_id", "run"]
    assert run(PRETRAIN, "custom", "resnet18", *flags)[::2] == (0, "")
    return folder / "trained_models/run"


def test_the_card_says_what_a_user_must_know(photos: Path) -> None:
    card = json.loads((photos / "backbone.json").read_text())
    facts = torch.load(photos / "last.ckpt", weights_only=True)["cl"]
    assert card == {
        "encoder": "resnet18",
        "stem": "large",
        "width": 4,
        "in_channels": 3,
        "crop_size": 48,
        "resize": 48,
        "mean": list(facts["norm"][0]),
        "std": list(facts["norm"][1]),
        "classes": ["cat", "dog"],
        "method": "simclr",
        "metrics": {
            k: v for k, v in json.loads((photos / "summary.json").read_text()).items() if "images_per" not in k
        },
        "cl": cl.__version__,
        "format": 1,
    }


def test_every_way_to_name_a_run_loads_the_same_backbone(photos: Path) -> None:
    alone = photos.parent / "elsewhere.safetensors"
    alone.write_bytes((photos / "backbone.safetensors").read_bytes())
    images, found = torch.randn(2, 3, 48, 48), []
    for named in (photos, photos / "last.ckpt", photos / "backbone.safetensors", alone):
        backbone = cl.load_backbone(str(named))
        assert not backbone.training
        assert (backbone.card.mean, backbone.card.classes) == (
            found[0][1].mean if found else backbone.card.mean,
            ("cat", "dog"),
        )
        found.append((backbone(images), backbone.card))
    assert all(torch.equal(features, found[0][0]) for features, _ in found)
    (photos / "last.ckpt").unlink()
    assert torch.equal(cl.load_backbone(photos)(images), found[0][0])


def test_the_transform_of_a_picture_is_the_view_of_evaluation(photos: Path, folder: Path) -> None:
    from cl.data.apply_torchvision import apply_eval, normalize
    from cl.data.decode import read_image
    from cl.data.view_spec import EvalSpec

    write_odd(folder / "odd")
    backbone = cl.load_backbone(photos)
    for name in GOOD:
        view = normalize(
            apply_eval(read_image(folder / "odd" / name), EvalSpec(48)), (backbone.card.mean, backbone.card.std)
        )
        assert torch.equal(backbone.transform(Image.open(folder / "odd" / name)), view), name


def test_linear_evaluation_takes_the_export_as_it_was_trained(run: Run, photos: Path) -> None:
    flags = ["--train_dir", "train", "--crop_size", "48", "--batch_size", "16", "--fast_dev_run"]
    given = ["--pretrained_feature_extractor", str(photos / "backbone.safetensors")]
    code, out, err = run(LINEAR, "custom", "resnet18", *flags, *given)
    assert (code, err) == (0, "")
    assert "120 of 120 keys of resnet18 matched" in " ".join(out.split())
    assert "assumed" not in out
    code, _, err = run(LINEAR, "custom", "resnet50", *flags, *given)
    assert (code, "encoder: got resnet50, expected resnet18" in err) == (2, True)


CARD = Card("resnet18", "small", 4, 3, 32, 32, (0.5,) * 3, (0.5,) * 3, ("a",), "simclr", {"loss": 1.0}, "0.1.0")


def test_a_card_survives_json_and_has_null_for_what_is_no_number() -> None:
    assert Card.from_json(CARD.to_json()) == CARD
    assert json.loads(replace(CARD, metrics={"loss": math.nan}).to_json())["metrics"] == {"loss": None}


@pytest.mark.parametrize(
    "card",
    ["{}", "[]", "<html>", CARD.to_json().replace('"format": 1', '"format": 2'), CARD.to_json().replace("mean", "x")],
)
def test_a_card_of_another_kind_is_refused(card: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", {"card": card})
    with pytest.raises(UserError, match="is no checkpoint of"):
        cl.load_backbone(tmp_path / "a.safetensors")


def test_weights_of_others_have_no_card_to_load_them_by(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="expected a run of"):
        cl.load_backbone(tmp_path / "a.safetensors")


def test_a_file_that_could_not_be_written_to_its_end_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(TypeError), whole(tmp_path / "a") as file:
        file.write(b"half" + 1)  # type: ignore[operator]
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]


def test_import_cl_alone_imports_no_torch() -> None:
    check = "import sys, cl; assert 'torch' not in sys.modules; cl.load_backbone; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        cl.nothing_of_ours  # noqa: B018
