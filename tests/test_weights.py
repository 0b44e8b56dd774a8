"""Weights of any toolkit load completely or not at all, and unpickling never runs code."""

import argparse
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cl.backbones import build_backbone
from cl.backbones.loading import load_all_weights, load_init_from
from cl.cli import parse
from cl.config.backbone import BackboneConfig, EncoderConfig
from cl.config.programs import Linear
from cl.errors import UserError
from cl.run.weights.inputs import inputs_of_file
from cl.run.weights.load import Pretrained, load_pretrained
from tests.conftest import TINY, Run

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
Weights = Mapping[str, torch.Tensor]
QUICK = ["digits", "resnet18", *TINY, "--fast_dev_run"]


def resnet18(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torchvision.models.resnet18(weights=None).state_dict()


def initialised_weights(source: str, **fields: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    backbone_config = BackboneConfig("resnet18", init_from=source, **fields)  # type: ignore[arg-type]
    backbone = build_backbone(backbone_config, 224)
    load_init_from(backbone, backbone_config, 224, 3)
    return backbone.state_dict()


@pytest.mark.parametrize("layout", ["plain.pth", "wrapped.ckpt", "plain.safetensors"])
def test_a_file_of_torchvision_weights_is_loaded_completely(layout: str, tmp_path: Path) -> None:
    weights, file = resnet18(), tmp_path / layout
    if layout.endswith("safetensors"):
        save_file(weights, file)
    else:
        torch.save({"state_dict": weights} if "wrapped" in layout else weights, file)
    loaded = initialised_weights(str(file))
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded)


def test_a_run_starts_from_the_backbone_of_another_run(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *QUICK, "--run_id", "first")[0] == 0
    without_change = ["--lr", "0", "--weight_decay", "0", "--seed", "5"]
    assert run(PRETRAIN, *QUICK, *without_change, "--run_id", "second", "--init_from", "trained_models/first")[0] == 0
    first, second = (
        torch.load(folder / f"trained_models/{name}/last.ckpt", weights_only=True)["state_dict"]
        for name in ("first", "second")
    )
    learned = [key for key in first if key.startswith("backbone.") and key.endswith("weight")]
    assert all(torch.equal(first[key], second[key]) for key in learned)
    assert not torch.equal(first["projector.0.weight"], second["projector.0.weight"])


def test_published_weights_are_requested_from_torchvision_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.resnet18(weights=None)
    requests: list[tuple[str, str]] = []

    def get_model(name: str, weights: str) -> torch.nn.Module:
        requests.append((name, weights))
        return published

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    loaded = initialised_weights("torchvision")
    assert requests == [("resnet18", "DEFAULT")]
    assert torch.equal(loaded["conv1.weight"], published.state_dict()["conv1.weight"])


def test_published_weights_are_refused_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(UserError, match="--init_from: got torchvision, which could not be downloaded"):
        initialised_weights("torchvision")


def test_timms_resnet_uses_torchvisions_names() -> None:
    import timm

    assert set(build_backbone(BackboneConfig("resnet18"), 224).state_dict()) <= set(
        timm.create_model("resnet18").state_dict()
    )


def small(width: int = 4, seed: int = 2, **fields: object) -> dict[str, torch.Tensor]:
    """The weights of a narrow ResNet-18 with a 3x3 stem, as torchvision would name them, with a classifier."""
    torch.manual_seed(seed)
    backbone_config = BackboneConfig("resnet18", width=width, stem="small", **fields)  # type: ignore[arg-type]
    return build_backbone(backbone_config, 32).state_dict() | {
        "fc.weight": torch.zeros(3, 8 * width),
        "fc.bias": torch.zeros(3),
    }


def under(prefix: str, weights: Weights) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def as_supcontrast(weights: Weights) -> dict[str, torch.Tensor]:
    return {key.replace("downsample", "shortcut"): value for key, value in weights.items() if not key.startswith("fc.")}


def as_sequential(weights: Weights) -> dict[str, torch.Tensor]:
    """As nn.Sequential(*children) names them, without the classifier."""
    children = [name for name, _ in torchvision.models.resnet18().named_children()]
    split = {key: key.partition(".") for key in weights if not key.startswith("fc.")}
    return {f"{children.index(child)}.{suffix}": weights[key] for key, (child, _, suffix) in split.items()}


W, OTHER = small(), small(seed=3)  # those to load, and a second network in the same file
V = torch.zeros(2)
LAYOUTS = {  # content of the file, prefix in the report, keys left over
    "torchvision": (W, "", "fc (2)"),
    "MoCo": (
        {"state_dict": under("module.encoder_k.", OTHER) | under("module.encoder_q.", W) | {"module.queue": V}},
        "module.encoder_q.*",
        "encoder_k (122), fc (2), queue (1)",
    ),
    "MoCo v3": (
        {"state_dict": under("module.momentum_encoder.", OTHER) | under("module.base_encoder.", W)},
        "module.base_encoder.*",
        "momentum_encoder (122), fc (2)",
    ),
    "SimSiam": (
        {"arch": "x", "state_dict": under("module.encoder.", W | {"fc.3.bias": V}) | {"module.predictor.0.bias": V}},
        "module.encoder.*",
        "fc (3), predictor (1)",
    ),
    "Barlow Twins": (
        {"epoch": 3, "model": under("module.backbone.", W) | under("module.projector.", OTHER)},
        "module.backbone.*",
        "fc (2), projector (122)",
    ),
    "SupContrast": ({"model": under("encoder.", as_supcontrast(W))}, "encoder.*", "nothing"),
    "SupContrast on several GPUs": (
        {"opt": argparse.Namespace(lr=0.1), "model": under("encoder.module.", as_supcontrast(W)) | {"head.0.bias": V}},
        "encoder.module.*",
        "head (1)",
    ),
    "solo-learn": (
        {"state_dict": under("backbone.", W) | under("momentum_backbone.", OTHER) | {"classifier.bias": V}},
        "backbone.*",
        "fc (2), momentum_backbone (122), classifier (1)",
    ),
    "old solo-learn": ({"state_dict": under("encoder.", W)}, "encoder.*", "fc (2)"),
    "lightly": (
        {"state_dict": under("backbone.", W) | {"projection_head.bias": V}},
        "backbone.*",
        "fc (2), projection_head (1)",
    ),
    "lightly, numbered": ({"state_dict": under("backbone.", as_sequential(W))}, "backbone.*", "nothing"),
    "compiled": (under("_orig_mod.module.backbone.", W), "_orig_mod.module.backbone.*", "fc (2)"),
}  # fmt: skip


def load_for_evaluation(source: Path, encoder: str = "resnet18", *flags: str) -> Pretrained:
    typed = ["custom", encoder, "--train_dir", "x", "--pretrained_feature_extractor", str(source), *flags]
    return load_pretrained(parse(Linear, typed).config)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_of_another_toolkit_loads_every_key_and_is_reported(name: str, tmp_path: Path) -> None:
    content, prefix, left_over = LAYOUTS[name]
    torch.save(content, tmp_path / "file.ckpt")
    pretrained = load_for_evaluation(tmp_path / "file.ckpt")
    weights = pretrained.backbone.state_dict()
    assert all(torch.equal(weights[key], W[key]) for key in weights)
    origin = f"under {prefix}, " if prefix else ""
    assert f"120 of 120 keys of resnet18 matched: {origin}" in pretrained.report
    assert (
        f"; left over: {left_over}; assumed: the data set's normalisation, views of 224 pixels, a 3x3 stem"
        in pretrained.report
    )
    assert inputs_of_file(str(tmp_path / "file.ckpt"), "--x", EncoderConfig("resnet18")) is None


def test_lightlys_own_resnet_computes_what_it_does_in_lightly_or_is_refused(tmp_path: Path) -> None:
    """As a Sequential of its children it lacks a ReLU, so our network with its weights computes something else."""
    models = pytest.importorskip("lightly.models")
    torch.manual_seed(0)
    theirs = models.ResNetGenerator("resnet-18", width=0.0625).eval()
    torch.save({"state_dict": under("backbone.", theirs.state_dict())}, tmp_path / "named.ckpt")
    children = torch.nn.Sequential(*list(theirs.children())[:-1])
    torch.save({"state_dict": under("backbone.", children.state_dict())}, tmp_path / "numbered.ckpt")
    theirs.linear = torch.nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(
            load_for_evaluation(tmp_path / "named.ckpt").backbone.eval()(images), theirs(images), atol=1e-6
        )
    with pytest.raises(UserError, match="; missing: "):
        load_for_evaluation(tmp_path / "numbered.ckpt")


def test_stem_and_width_are_read_from_the_file(tmp_path: Path) -> None:
    save_file(resnet18(), tmp_path / "large.safetensors")
    save_file(small(8), tmp_path / "small.safetensors")
    large, narrow = (load_for_evaluation(tmp_path / f"{name}.safetensors").backbone for name in ("large", "small"))
    assert (tuple(large.conv1.weight.shape), large.num_features) == ((64, 3, 7, 7), 512)
    assert (tuple(narrow.conv1.weight.shape), narrow.num_features) == ((8, 3, 3, 3), 64)
    assert isinstance(narrow.maxpool, torch.nn.Identity)


def test_only_counters_may_be_missing(tmp_path: Path) -> None:
    torch.save({k: v for k, v in W.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    assert (
        "100 of 120 keys of resnet18 matched (the others are num_batches_tracked)"
        in load_for_evaluation(tmp_path / "old.pth").report
    )


def test_objects_of_missing_packages_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """solo-learn's checkpoints contain objects of omegaconf."""
    module = ModuleType("omegaconf.dictconfig")
    exec(
        "class DictConfig:\n    def __init__(self): self.lr = 1\n    __module__ = 'omegaconf.dictconfig'",
        module.__dict__,
    )
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "omegaconf.dictconfig", module)
        patched.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
        torch.save(
            {"state_dict": under("backbone.", W), "hyper_parameters": module.DictConfig()},
            tmp_path / "a.ckpt",
        )
    assert "120 of 120" in load_for_evaluation(tmp_path / "a.ckpt").report


@pytest.mark.parametrize(
    ("kind", "encoder", "flags", "message"),
    [
        ("resnet34", "resnet18", [], "of layers that the encoder does not have: 96 (layer1.2.conv1.weight, "),
        ("numbered resnet34", "resnet18", [], "of layers that the encoder does not have: 96 (layer1.2.conv1.weight, "),
        ("resnet18", "resnet50", [], "missing: 165 (layer1.0.conv3.weight, "),
        ("resnet18", "resnet18", ["--in_channels", "1"], "takes 3 channels, expected --in_channels 3"),
        ("resnet18", "timm/resnet50", [], "missing: 165 (layer1.0.conv3.weight, "),
        ("nothing", "resnet18", [], "missing: 100 (conv1.weight, bn1.weight, bn1.bias, ...)"),
    ],
)
def test_weights_of_less_or_more_than_the_backbone_are_refused(
    kind: str, encoder: str, flags: list[str], message: str, tmp_path: Path
) -> None:
    tensors = (
        {"x": torch.zeros(1)} if kind == "nothing" else torchvision.models.get_model(kind.split()[-1]).state_dict()
    )
    tensors = as_sequential(tensors) if "numbered" in kind else tensors
    torch.save(tensors, tmp_path / "file.pth")
    with pytest.raises(UserError) as error:
        load_for_evaluation(tmp_path / "file.pth", encoder, *flags)
    assert "\n" not in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stem": "large", "width": 4}, "has 3 x 3 pixels, expected --stem small"),
        ({"stem": "small", "width": 8}, "has 4 outputs, expected --width 4"),
    ],
)
def test_a_refusal_names_the_flag_to_change(config: dict[str, object], message: str) -> None:
    backbone = build_backbone(BackboneConfig("resnet18", **config), 32)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        load_all_weights(backbone, W, "--init_from: got x", "resnet18")


class Hostile:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (Path.write_text, (Path("code_ran"), "yes"))


FLAGS = {
    PRETRAIN: [*QUICK, "--init_from"],
    LINEAR: ["digits", "resnet18", "--fast_dev_run", "--pretrained_feature_extractor"],
}


@pytest.mark.parametrize("program", FLAGS)
@pytest.mark.parametrize(
    "kind",
    ["pickle.pth", "extra object.ckpt", "half.pth", "half.safetensors", "page.pth", "page.safetensors", "list.pth",
     "missing key.pth", "other shape.pth", "empty folder"],
)  # fmt: skip
def test_any_other_file_is_refused_in_one_line(
    kind: str, program: str, run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("given") / kind
    changed = {
        "missing key.pth": {"layer4.1.bn2.weight": 0},
        "other shape.pth": {"layer4.1.bn2.weight": torch.zeros(7)},
    }
    weights = W | changed.get(kind, {})
    weights = {"list.pth": [1], "extra object.ckpt": {"state_dict": W, "extra": Hostile()}}.get(kind, weights)
    if kind == "half.safetensors":
        save_file(weights, file)
    elif kind != "empty folder":
        torch.save(weights, file)
    if kind == "pickle.pth":
        file.write_bytes(pickle.dumps(Hostile()))
    if kind.startswith("half"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if kind.startswith("page"):
        file.write_text("<html>404</html>")
    source = file.parent if kind == "empty folder" else file
    code, out, err = run(program, *FLAGS[program], str(source))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {FLAGS[program][-1]}: got {source}")
    message = {
        "missing key.pth": "; missing: 1 (",
        "other shape.pth": "of another shape: 1 (",
        "empty folder": "there is no",
    }
    assert message.get(kind, "cannot be read as weights") in err
    assert list(folder.iterdir()) == []


def test_the_banner_reports_what_external_weights_contain(run: Run, folder: Path) -> None:
    torch.save({"model": under("encoder.", as_supcontrast(W))}, folder / "ckpt.pth")
    code, out, err = run(LINEAR, *FLAGS[LINEAR], "ckpt.pth")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "weights 120 of 120 keys of resnet18 matched: under encoder.*, SupContrast's names" in text
    assert "assumed: the data set's normalisation, views of 8 pixels, a 3x3 stem with padding 1 and no max-pool" in text
    code, out, err = run(PRETRAIN, *QUICK, "--init_from", "ckpt.pth")
    assert (code, err) == (0, "")
    assert "weights 120 of 120 keys of resnet18 matched" in " ".join(out.split())
