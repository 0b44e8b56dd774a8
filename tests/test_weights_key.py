"""A file with several networks gives the one that its method's authors evaluate, or the one of --weights_key."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cl
from cl.backbones import build_backbone
from cl.backbones.loading import load_all_weights
from cl.config.backbone import BackboneConfig
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.test_weights import OTHER, V, W, load_for_evaluation, under

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
DINO = {
    "student": under("module.backbone.", OTHER) | {"module.head.mlp.0.bias": V},
    "teacher": under("backbone.", W) | {"head.mlp.0.bias": V},
    "dino_loss": {"center": V},
    "optimizer": {"state": {0: {"exp_avg": V}}},
    "epoch": 100,
}
EVALUATED: dict[str, tuple[Mapping[str, Any], str]] = {  # content, and the path of the network that has the weights W
    "DINO, iBOT": (DINO, "teacher.backbone"),
    "DINOv2, while it trains": (
        {"model": under("student.backbone.", OTHER) | under("teacher.backbone.", W)},
        "model.teacher.backbone",
    ),
    "DINO in Lightning": (
        {"state_dict": under("student_backbone.", OTHER) | under("teacher_backbone.", W)},
        "state_dict.teacher_backbone",
    ),
    "lightly's benchmark of DINO": (
        {"state_dict": under("student_backbone.", OTHER) | under("backbone.", W)},
        "state_dict.backbone",
    ),
    "lightly's BYOL": (
        {"state_dict": under("backbone_momentum.", OTHER) | under("backbone.", W)},
        "state_dict.backbone",
    ),
    "stable-pretraining": (
        {"state_dict": under("backbone.student.", OTHER) | under("backbone.teacher.", W)},
        "state_dict.backbone.teacher",
    ),
    "solo-learn": (
        {"state_dict": under("momentum_backbone.", OTHER) | under("backbone.", W)},
        "state_dict.backbone",
    ),
    "MoCo": (
        {"state_dict": under("module.encoder_k.", OTHER) | under("module.encoder_q.", W)},
        "state_dict.module.encoder_q",
    ),
    "MoCo v3": (
        {"state_dict": under("module.momentum_encoder.", OTHER) | under("module.base_encoder.", W)},
        "state_dict.module.base_encoder",
    ),
    "BYOL": (
        under("target_encoder.net.", OTHER) | under("online_encoder.net.", W),
        "online_encoder.net",
    ),
    "BYOL in two dicts": ({"target": OTHER, "online": W}, "online"),
    "BYOL without its name": (
        {"state_dict": under("target_encoder.", OTHER) | under("encoder.", W)},
        "state_dict.encoder",
    ),
    "I-JEPA": (
        {"encoder": under("module.", OTHER), "target_encoder": under("module.", W), "predictor": {"x": V}},
        "target_encoder.module",
    ),
    "timm": ({"state_dict": OTHER, "state_dict_ema": W, "arch": "resnet18"}, "state_dict_ema"),
    "ConvNeXt, DeiT": ({"model": OTHER, "model_ema": W}, "model_ema"),
    "a student of a deeper teacher": ({"teacher": OTHER | {"layer1.2.conv1.weight": V}, "student": W}, "student"),
    "SwAV": (under("module.", W) | {"module.prototypes.weight": V}, "module"),
}  # fmt: skip


def loaded_equals(weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, expected[key]) for key, value in weights.items())


@pytest.mark.parametrize("name", EVALUATED)
def test_the_network_that_the_authors_evaluate_is_taken_and_named(name: str, tmp_path: Path) -> None:
    content, path = EVALUATED[name]
    torch.save(content, tmp_path / "file.pth")
    pretrained = load_for_evaluation(tmp_path / "file.pth")
    assert loaded_equals(pretrained.backbone.state_dict(), W)
    holds_another = any(value is OTHER["conv1.weight"] for value in leaves(content))
    assert (f"; taken: {path}; the file also has " in pretrained.report) == holds_another


def leaves(content: Any) -> list[Any]:
    return [leaf for value in content.values() for leaf in leaves(value)] if isinstance(content, Mapping) else [content]


@pytest.mark.parametrize("key", ["student", "student.backbone", "student.module.backbone", "module.backbone"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_key_takes_another_one(key: str, suffix: str, tmp_path: Path) -> None:
    content = {"student": under("module.backbone.", W), "teacher": under("backbone.", OTHER)}
    if key == "module.backbone":
        content = {"teacher": under("backbone.", OTHER), "other": under("module.backbone.", W)}
    key = "other" if key == "module.backbone" else key
    file = tmp_path / f"file.{suffix}"
    if suffix == "safetensors":
        save_file({f"{name}.{k}": v.clone() for name, part in content.items() for k, v in part.items()}, file)
    else:
        torch.save(content, file)
    pretrained = load_for_evaluation(file, "resnet18", "--weights_key", key)
    assert loaded_equals(pretrained.backbone.state_dict(), W)


def test_a_key_of_the_whole_path_is_preferred_to_one_within_another(tmp_path: Path) -> None:
    torch.save({"state_dict": under("backbone.", W) | under("teacher.backbone.", OTHER)}, tmp_path / "file.pth")
    for key, expected in (("backbone", W), ("teacher", OTHER), ("teacher.backbone", OTHER)):
        pretrained = load_for_evaluation(tmp_path / "file.pth", "resnet18", "--weights_key", key)
        assert loaded_equals(pretrained.backbone.state_dict(), expected)


def refusal(content: Mapping[str, Any], *flags: str, encoder: str = "resnet18", file: Path) -> str:
    torch.save(content, file)
    with pytest.raises(UserError) as error:
        load_for_evaluation(file, encoder, *flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_refusal_lists_what_the_file_has(tmp_path: Path) -> None:
    file = tmp_path / "file.pth"
    wrong = refusal(DINO, "--weights_key", "techer", file=file)
    assert "--weights_key: got module" in refusal({"teacher": W}, "--weights_key", "module", file=file)
    assert wrong.startswith("--weights_key: got techer, expected one of student.module.backbone, teacher.backbone")
    other = refusal(DINO, encoder="timm/resnet50", file=file)
    assert "expected all weights of timm/resnet50" in other
    assert "; the file has student (123), teacher (123), dino_loss (1)" in other
    nothing = refusal({"head": {"bias": V}, "epoch": 3}, file=file)
    assert nothing.endswith("; the file has head (1)")
    assert refusal({"epoch": 3}, file=file).endswith("; the file has no tensors")
    assert "expected one of head (1)" in refusal({"head": {"bias": V}}, "--weights_key", "x", file=file)


def test_a_damaged_network_is_refused_although_the_file_has_a_whole_one(tmp_path: Path) -> None:
    damaged = {key: value for key, value in W.items() if key != "layer4.1.conv2.weight"}
    for content in ({"student": OTHER, "teacher": damaged}, under("encoder_q.", damaged) | under("encoder_k.", OTHER)):
        assert "; missing: 1 (layer4.1.conv2.weight)" in refusal(content, file=tmp_path / "file.pth")
    message = refusal({"student": OTHER, "teacher": damaged}, file=tmp_path / "file.pth")
    assert "; taken: teacher of student, teacher (--weights_key); the file has student (122), teacher (121)" in message


def test_a_momentum_encoder_alone_is_taken_only_by_its_key(tmp_path: Path) -> None:
    content = {"state_dict": under("module.encoder_k.", W)}
    message = refusal(content, file=tmp_path / "file.pth")
    assert "which has only state_dict.module.encoder_k, a momentum encoder that its method does not evaluate" in message
    assert message.endswith("--weights_key state_dict.module.encoder_k takes it")
    pretrained = load_for_evaluation(tmp_path / "file.pth", "resnet18", "--weights_key", "encoder_k")
    assert loaded_equals(pretrained.backbone.state_dict(), W)


def test_both_programs_and_the_library_take_the_key(run: Run, folder: Path) -> None:
    flags = ["digits", "resnet18", *TINY, "--fast_dev_run", "--method", "byol", "--proj_output_dim", "16"]
    assert run(PRETRAIN, *flags, "--run_id", "byol")[0] == 0
    saved = torch.load(folder / "trained_models/byol/last.ckpt", weights_only=True)["state_dict"]
    for key, prefix in ((None, "backbone."), ("backbone", "backbone."), ("teacher", "teacher.backbone.")):
        backbone = cl.load_backbone("trained_models/byol", weights_key=key)
        expected = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        assert loaded_equals(backbone.state_dict(), expected)
    with pytest.raises(UserError, match=r"got x, expected one of state_dict\.backbone, state_dict\.teacher\.backbone"):
        cl.load_backbone("trained_models/byol", weights_key="x")
    use = [LINEAR, "digits", "resnet18", "--fast_dev_run", "--pretrained_feature_extractor", "trained_models/byol"]
    start = [PRETRAIN, "digits", "resnet18", *TINY, "--fast_dev_run", "--init_from", "trained_models/byol"]
    for command in (use, start):
        code, out, err = run(*command, "--weights_key", "teacher")
        assert (code, err) == (0, "")
        assert "taken: state_dict.teacher.backbone; the file also has state_dict.backbone" in " ".join(out.split())


def test_a_state_dict_in_memory_is_searched_like_a_file() -> None:
    backbone = build_backbone(BackboneConfig("resnet18", width=4, stem="small"), 32)
    report = load_all_weights(backbone, DINO, "--x: got x", "resnet18", "student")
    assert loaded_equals(backbone.state_dict(), OTHER)
    assert "under student.module.backbone.*" in report
