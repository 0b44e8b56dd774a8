"""A number that is computed from what is not finite is refused and named, by every program and protocol."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cl
import main_contrastive
from cl.backbones import build_backbone
from cl.backbones.card import Card
from cl.backbones.resnet import ResNetBackbone
from cl.config.backbone import BackboneConfig
from cl.errors import UserError
from cl.evaluation.online.metrics import MeasuredModule
from cl.nn.finite import measurable, non_finite
from cl.report import find_runs, report, tabulate
from cl.run.weights.export import export
from tests.conftest import TINY, Run, leave_out_pictures

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a short pretraining."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch.setattr)
        flags = ["--fast_dev_run", "--output_dir", str(runs), "--run_id", "run"]
        main_contrastive.main(["digits", "resnet18", *TINY, *flags])
    return runs / "run"


def evaluate(run: Run, trained: Path, *flags: str) -> tuple[int, str, str]:
    short = ["--epochs", "2", "--run_id", "linear", "--scheduler", "none", "--pretrained_feature_extractor"]
    return run(LINEAR, "digits", "resnet18", *short, str(trained), *flags)


DIVERGING = ["--lr", "1e38"]


@pytest.mark.parametrize("flags", [DIVERGING, [*DIVERGING, "--protocol", "cached"]], ids=["standard", "cached"])
def test_a_head_that_diverges_has_no_accuracy(flags: list[str], run: Run, trained: Path, folder: Path) -> None:
    code, out, err = evaluate(run, trained, *flags)
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith("stopped: not finite after ")
    assert "loss" in err
    assert "heads.0.weight (" in err
    assert " %" not in out
    assert not (folder / "trained_models/linear/summary.json").exists()


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("protocol", ["standard", "cached"])
def test_a_pair_that_diverges_loses_and_has_no_number(protocol: str, run: Run, trained: Path, folder: Path) -> None:
    code, out, err = evaluate(run, trained, "--lr", "0.1", "1e38", "--protocol", protocol)
    assert (code, err) == (0, "")
    assert "Of 2 pairs --lr 0.1 --weight_decay 0 was the most accurate" in " ".join(out.split())
    assert "1 of them diverged" in " ".join(out.split())
    assert "nan" not in out
    linear = folder / "trained_models/linear"
    grid = (linear / "grid.csv").read_text().splitlines()
    assert grid[-1] == "1e+38,0,diverged"
    assert (linear / "linear_grid.png").exists()
    summary = json.loads((linear / "summary.json").read_text())
    assert all(math.isfinite(value) for value in summary.values())


@pytest.mark.parametrize("protocol", ["standard", "cached"])
def test_a_grid_of_diverged_pairs_is_refused(protocol: str, run: Run, trained: Path, folder: Path) -> None:
    code, out, err = evaluate(run, trained, "--lr", "1e37", "1e38", "--protocol", protocol)
    assert (code, err.count("\n")) == (3, 1)
    assert "the heads of all 2 pairs of rates and decays diverged; try a lower --lr" in err
    assert " %" not in out


@pytest.mark.parametrize("protocol", ["standard", "cached"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_features_that_are_not_finite_are_refused_by_every_protocol(
    value: float, protocol: str, run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """As images of a kind may give, whose weights passed the check."""
    forward = ResNetBackbone.forward

    def spoiled(self: ResNetBackbone, x: torch.Tensor) -> torch.Tensor:
        features = forward(self, x)
        return features.masked_fill(torch.arange(len(features))[:, None] == 7, value)

    monkeypatch.setattr(ResNetBackbone, "forward", spoiled)
    code, out, err = evaluate(run, trained, "--protocol", protocol, "--few_shot", "--lr", "1e-3")
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith("stopped: ")
    assert "not finite" in err
    assert "offline linear" not in out
    assert not (folder / "trained_models/linear/summary.json").exists()


@pytest.mark.parametrize("name", ["backbone.bn1.running_var", "backbone.layer1.0.conv1.weight"])
def test_a_validation_of_a_network_that_is_not_finite_reports_no_accuracy(
    name: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = MeasuredModule.on_train_epoch_start

    def damaged(self: MeasuredModule) -> None:
        start(self)
        if self.current_epoch == 1:
            self.state_dict()[name].view(-1)[0] = torch.nan

    monkeypatch.setattr(MeasuredModule, "on_train_epoch_start", damaged)
    flags = ["--epochs", "3", "--batch_size", "256", "--run_id", "run"]
    code, out, err = run(PRETRAIN, "digits", "resnet18", *TINY, *flags)
    assert (code, "Traceback" in err) == (3, False)
    assert "not finite after epoch 2, step 10: online_linear/val_top1" in err
    assert f"{name} (1 NaN of " in err
    assert "epoch 2/3" not in out
    files = {file.name for file in (folder / "trained_models/run").iterdir()}
    assert {"last.ckpt", "metrics.csv"} <= files
    assert not {"summary.json", "backbone.safetensors"} & files
    assert cl.load_backbone("trained_models/run").card.method == "simclr"  # of the first epoch


def test_weights_that_are_not_finite_are_neither_saved_nor_resumed(run: Run, folder: Path) -> None:
    flags = ["digits", "resnet18", *TINY, "--epochs", "2", "--batch_size", "256", "--run_id", "run"]
    assert run(PRETRAIN, *flags)[0] == 0
    runs = folder / "trained_models/run"
    (runs / "summary.json").unlink()
    (runs / "last.ckpt").unlink()
    saved = torch.load(runs / "previous.ckpt", weights_only=True)
    saved["state_dict"]["projector.0.weight"][0, 0] = torch.inf
    torch.save(saved, runs / "last.ckpt")
    code, _, err = run(PRETRAIN, *flags, "--resume_training_from", "auto")
    assert (code, err.count("\n")) == (0, 1)
    assert "last.ckpt is not finite: projector.0.weight (1 infinite of " in err
    assert err.endswith("resuming from trained_models/run/previous.ckpt\n")
    (runs / "summary.json").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        torch.save(saved, runs / name)
    code, _, err = run(PRETRAIN, *flags, "--resume_training_from", "auto")
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("start a new run with a lower --lr\n")


def test_a_report_shows_no_number_of_a_run_that_diverged(run: Run, trained: Path, tmp_path: Path) -> None:
    for seed, value in (("0", 0.5), ("1", math.nan)):
        copy = tmp_path / f"runs/seed{seed}"
        shutil.copytree(trained, copy)
        config = json.loads((copy / "config.json").read_text())
        config["config"]["run"]["seed"]["value"] = int(seed)
        config["config"]["run"]["fast_dev_run"]["value"] = False
        (copy / "config.json").write_text(json.dumps(config))
        summary = json.loads((copy / "summary.json").read_text())
        (copy / "summary.json").write_text(
            json.dumps(summary | {"online_linear/val_top1": value, "knn/val_top1": value})
        )
    table = tabulate(find_runs([tmp_path / "runs"]), tmp_path / "table.csv")
    assert "| 50.0 %, 1 not finite | 50.0 %, 1 not finite |" in table
    assert "nan" not in table.lower()
    assert "nan" not in (tmp_path / "table.csv").read_text().lower()
    assert "| not finite | not finite |" in report([tmp_path / "runs/seed1"])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.int64])
def test_weights_that_are_not_floating_point_numbers_are_refused(dtype: torch.dtype, run: Run, folder: Path) -> None:
    torch.save({key: value.to(dtype) for key, value in weights().items()}, folder / "quantised.pth")
    code, out, err = run(*START, "quantised.pth")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "expected floating-point weights; 100 are of another type" in err
    assert str(dtype) in err
