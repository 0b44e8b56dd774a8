"""Weights to start from load whole or not at all, and nothing is unpickled that could run code."""

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cl.backbones import build_backbone
from cl.backbones.weights import start_from
from cl.config.backbone import BackboneConfig
from cl.errors import UserError
from tests.conftest import TINY, Run

PRETRAIN = "main_contrastive.py"
QUICK = ["digits", "resnet18", *TINY, "--fast_dev_run"]


def resnet18(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torchvision.models.resnet18(weights=None).state_dict()


def started(source: str, **config: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = BackboneConfig("resnet18", init_from=source, **config)  # type: ignore[arg-type]
    backbone = build_backbone(made, 224)
    start_from(backbone, made)
    return backbone.state_dict()


@pytest.mark.parametrize("layout", ["plain.pth", "wrapped.ckpt", "plain.safetensors"])
def test_a_file_of_torchvision_weights_is_loaded_whole(layout: str, tmp_path: Path) -> None:
    weights, file = resnet18(), tmp_path / layout
    if layout.endswith("safetensors"):
        save_file(weights, file)
    else:
        torch.save({"state_dict": weights} if "wrapped" in layout else weights, file)
    found = started(str(file))
    assert all(torch.equal(found[key], weights[key]) for key in found)


def test_a_run_goes_on_from_the_backbone_of_another(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *QUICK, "--run_id", "first")[0] == 0
    still = ["--lr", "0", "--weight_decay", "0", "--seed", "5"]
    assert run(PRETRAIN, *QUICK, *still, "--run_id", "second", "--init_from", "trained_models/first")[0] == 0
    first, second = (
        torch.load(folder / f"trained_models/{name}/last.ckpt", weights_only=True)["state_dict"]
        for name in ("first", "second")
    )
    learned = [key for key in first if key.startswith("backbone.") and key.endswith("weight")]
    assert all(torch.equal(first[key], second[key]) for key in learned)
    assert not torch.equal(first["projector.0.weight"], second["projector.0.weight"])


def test_torchvisions_published_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.resnet18(weights=None)
    asked: list[tuple[str, str]] = []

    def get_model(name: str, weights: str) -> torch.nn.Module:
        asked.append((name, weights))
        return published

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    found = started("torchvision")
    assert asked == [("resnet18", "DEFAULT")]
    assert torch.equal(found["conv1.weight"], published.state_dict()["conv1.weight"])


def test_without_a_network_the_name_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(UserError, match="--init_from: got torchvision, which could not be downloaded"):
        started("torchvision")


def test_timms_weights_fit_under_torchvisions_names() -> None:
    import timm

    assert set(build_backbone(BackboneConfig("resnet18"), 224).state_dict()) <= set(
        timm.create_model("resnet18").state_dict()
    )


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("kind", ["hostile", "half", "page", "list", "missing key", "other width", "empty folder"])
def test_anything_else_is_refused_in_one_line(kind: str, run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("given") / "weights.pth"
    weights = build_backbone(BackboneConfig("resnet18", width=8 if kind == "other width" else 4), 8).state_dict()
    if kind == "missing key":
        weights.pop("layer4.1.bn2.weight")
    torch.save([1] if kind == "list" else weights, file)
    if kind == "hostile":
        file.write_bytes(pickle.dumps(Hostile()))
    if kind == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if kind == "page":
        file.write_text("<html>404</html>")
    named = file.parent / "nothing" if kind == "empty folder" else file
    code, _, err = run(PRETRAIN, *QUICK, "--init_from", str(named))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --init_from: got {named}")
    assert {"missing key": "1 are missing", "other width": "have another shape"}.get(kind, "") in err
