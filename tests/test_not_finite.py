"""A number that is computed from what is not finite is refused and named, by every program and protocol."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cl
from cl.backbones import build_backbone
from cl.backbones.card import Card
from cl.config.backbone import BackboneConfig
from cl.errors import UserError
from cl.nn.finite import measurable, non_finite
from cl.run.folder.export import export
from tests.conftest import TINY, Run

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
Weights = dict[str, torch.Tensor]
CARD = Card("resnet18", "small", 4, 3, 8, 8, (0.5,) * 3, (0.5,) * 3, ("a",), "simclr", {}, "0.1.0")
START = [PRETRAIN, "digits", "resnet18", *TINY, "--fast_dev_run", "--init_from"]
EVALUATE = [LINEAR, "digits", "resnet18", "--fast_dev_run", "--pretrained_feature_extractor"]


def weights() -> Weights:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig("resnet18", width=4), 8).state_dict()


def with_value(key: str, value: float) -> Callable[[Weights], Weights]:
    def change(state: Weights) -> Weights:
        state[key] = state[key].clone()
        state[key].view(-1)[0] = value
        return state

    return change


def too_large_for_float32(state: Weights) -> Weights:
    return {key: value.double() * 1e39 if key == "conv1.weight" else value for key, value in state.items()}


def overflowed_to_float16(state: Weights) -> Weights:
    return {key: (value * 1e6).half() if key == "conv1.weight" else value for key, value in state.items()}


CHANGES: Mapping[str, tuple[Callable[[Weights], Weights], str]] = {  # of a file's weights, and part of the refusal
    "NaN": (with_value("layer4.1.conv2.weight", torch.nan), "layer4.1.conv2.weight (1 NaN of 9216 values)"),
    "infinite": (with_value("layer1.0.bn1.bias", -torch.inf), "layer1.0.bn1.bias (1 infinite of 4 values)"),
    "NaN statistics": (with_value("bn1.running_mean", torch.nan), "bn1.running_mean (1 NaN of 4 values)"),
    "infinite variance": (with_value("bn1.running_var", torch.inf), "bn1.running_var (1 infinite of 4 values)"),
    "negative variance": (with_value("bn1.running_var", -1.0), "bn1.running_var (a negative variance)"),
    "float64": (too_large_for_float32, "infinite of 108 values)"),
    "float16": (overflowed_to_float16, "infinite of 108 values"),
    "finite but huge": (with_value("bn1.weight", 1e38), "expected weights that give finite features"),
}


@pytest.mark.parametrize("suffix", ["pth", "ckpt", "safetensors"])
@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_are_not_finite_are_refused_and_named(name: str, suffix: str, run: Run, folder: Path) -> None:
    change, message = CHANGES[name]
    file = folder / f"file.{suffix}"
    content = change(weights())
    if suffix == "safetensors":
        save_file(content, file)
    else:
        torch.save({"state_dict": {f"module.backbone.{key}": value for key, value in content.items()}}, file)
    for command in (START, EVALUATE):
        code, out, err = run(*command, str(file))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {command[-1]}: got {file}, expected ")
        assert message in err
        assert list(folder.iterdir()) == [file]


def test_the_library_refuses_them_too(folder: Path) -> None:
    backbone = CARD.build()
    backbone.load_state_dict(with_value("bn1.running_var", torch.nan)(backbone.state_dict()))
    export(backbone, CARD, folder)
    with pytest.raises(UserError, match=r"got .*backbone\.safetensors\), expected finite weights; .* bn1\.running_var"):
        cl.load_backbone(folder)


def test_counters_and_unused_layers_may_have_any_value(run: Run, folder: Path) -> None:
    content = weights() | {"bn1.num_batches_tracked": torch.tensor(-1), "fc.weight": torch.full((2, 32), torch.nan)}
    torch.save(content, folder / "file.pth")
    assert run(*EVALUATE, "file.pth")[0] == 0


def test_rows_without_a_finite_length_are_not_measurable() -> None:
    features = torch.tensor([[0.0, 0.0], [1e18, 1.0], [1e20, 1.0], [torch.nan, 1.0], [1.0, -torch.inf]])
    assert measurable(features).tolist() == [True, True, False, False, False]
    assert non_finite({"a": torch.tensor([1, 2]), "b": torch.tensor([torch.nan, torch.inf])}) == {
        "b": "1 NaN and 1 infinite of 2 values"
    }
