"""Views that are not square: `--crop_size HEIGHT WIDTH`, from the flag to the features."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl import cli, embed
from cl.cli import parse
from cl.config.programs import Linear, Pretrain
from cl.config.views import PretrainViewsConfig
from cl.data.executors.resident import ResidentExecutor
from cl.data.executors.torchvision import TorchvisionExecutor, apply_eval
from cl.data.executors.workers import WorkerExecutor
from cl.data.images import FileSet
from cl.data.views.draws import crop_boxes, draw
from cl.data.views.rows import CentreView, RandomViews
from cl.data.views.spec import EvalSpec, ViewSpec
from cl.run.weights.load import load_backbone
from tests.conftest import TINY, Run
from tests.pictures import plain, write_classes
from tests.test_executors import (
    CPU,
    IMAGENET,
    PLAIN,
    assert_close_in_levels,
    assert_same_views,
    batch_of,
    dali,
    small_images,
    views,
)

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"


def crop_size(*words: str) -> Any:
    return parse(Pretrain, words).config.views.crop_size


def test_the_flag_takes_a_side_or_height_and_width_before_and_after_the_positionals() -> None:
    assert crop_size("custom", "resnet18", "--crop_size", "96", "160") == (96, 160)
    assert crop_size("--crop_size", "96", "160", "custom", "resnet18") == (96, 160)
    assert crop_size("custom", "resnet18", "--crop_size=96", "160", "--seed", "1") == (96, 160)
    assert crop_size("--crop_size", "96", "custom", "resnet18", "--seed", "7") == 96
    assert crop_size("custom", "resnet18", "--crop_size", "96", "96") == 96
    assert crop_size("custom", "resnet18") == 224
    words = ["custom", "resnet18", "--pretrained_feature_extractor", "x", "--crop_size", "96", "160"]
    assert parse(Linear, words).config.views.crop_size == (96, 160)
    config = PretrainViewsConfig(crop_size=(96, 160))
    assert PretrainViewsConfig.from_dict(json.loads(json.dumps(vars(config)))) == config


def test_crops_have_the_shape_of_the_view_up_to_the_distortion_of_square_ones() -> None:
    spec = ViewSpec((32, 64), scale=(0.05, 0.4))
    params = draw(spec, 0, 0, np.arange(500), 0)
    boxes = crop_boxes(params, spec, np.full(500, 400), np.full(500, 800))
    distortion = boxes[:, 3] / boxes[:, 2] / 2
    assert 0.74 < distortion.min() < 0.78
    assert 1.28 < distortion.max() < 1.35
    square = crop_boxes(params, ViewSpec(32), np.full(500, 400), np.full(500, 400))
    assert (square[:, 2:] <= 400).all()


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    sizes = [(40, 300), (300, 40), (77, 160), (1, 50), (90, 90), (120, 64)]
    for number, (height, width) in enumerate(sizes):
        plain(number, height, width).save(tmp_path / f"{number}.png")
    return FileSet(tmp_path, [f"{i}.png" for i in range(len(sizes))], np.zeros(len(sizes), np.int64), 3)


@pytest.mark.parametrize("size", [(24, 60), (72, 40), (16, 70)], ids=str)
def test_an_evaluation_view_is_the_centre_of_an_undistorted_image(size: tuple[int, int], files: FileSet) -> None:
    planner = CentreView(EvalSpec(size))
    expected = batch_of(TorchvisionExecutor(files, planner, PLAIN, CPU), files).views[0]
    assert expected.shape == (1, 6, 3, *size)
    for executor, levels in ((WorkerExecutor, 0), (dali, 1)):
        assert_close_in_levels(batch_of(executor(files, planner, PLAIN, CPU), files).views[0], expected, levels)
    rows = planner.rows(0, np.arange(6), np.array([[40, 300], [300, 40], [77, 160], [80, 50], [90, 90], [120, 64]]))
    resized, box = rows[0].crops.resized, rows[0].crops.box[:, 2:]
    assert (resized >= size).all()
    assert np.abs(np.log((resized[:, 0] / box[:, 0]) / (resized[:, 1] / box[:, 1]))).max() < 0.05


def test_an_image_of_the_views_size_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 24, 60), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    torch.testing.assert_close(apply_eval(image, EvalSpec((24, 60))), image.float() / 255, atol=1e-7, rtol=0)


@pytest.mark.parametrize("executor", [WorkerExecutor, ResidentExecutor, dali])
def test_views_match_the_reference(executor: Any) -> None:
    assert_same_views(executor, small_images(), RandomViews(views((24, 40), (20, 16)), seed=3), IMAGENET)


def test_blur_and_its_smallest_view_go_by_the_shorter_side() -> None:
    assert ViewSpec((224, 96)).blur_kernel == ViewSpec(96).blur_kernel
    assert EvalSpec((112, 224)).resize == (128, 256)
    assert EvalSpec((32, 64)).resize == (32, 64)


@pytest.mark.parametrize("encoder", ["resnet18", "timm/test_vit"])
def test_wide_views_train_evaluate_export_and_embed(
    encoder: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(folder / "data", {"a": 8, "b": 8})
    images = ["custom", encoder, "--train_dir", "data", "--val_dir", "data"]
    short = ["--batch_size", "8", "--epochs", "1", "--num_workers", "0"]
    crops = ["--multicrop", "--n_small_crops", "1", "--small_crop_size", "16", "32", "--gaussian_prob", "0.5"]
    tiny = TINY[2:4] if encoder.startswith("timm/") else TINY[:4]
    flags = [*images, "--crop_size", "32", "48", *crops, *tiny, *short, "--run_id", "wide"]
    code, out, err = run(PRETRAIN, *flags)
    assert (code, err) == (0, "")
    assert "--crop_size 32 48 --pretrained_feature_extractor" in out
    config = json.loads((folder / "trained_models/wide/config.json").read_text())["config"]
    assert config["views"]["crop_size"]["value"] == [32, 48]
    evaluated = [*images, *short, "--pretrained_feature_extractor", "trained_models/wide", "--protocol", "cached"]
    code, out, err = run(LINEAR, *evaluated, "--crop_size", "32", "48")
    assert (code, err) == (0, "")
    assert "but the backbone was pretrained at" not in out
    code, out, err = run(LINEAR, *evaluated, "--crop_size", "48", "32", "--dry_run", "--protocol", "standard")
    assert (code, err) == (0, "")
    assert "but the backbone was pretrained at 32 x 48 pixels" in " ".join(out.split())
    backbone = load_backbone("trained_models/wide")
    assert (backbone.card.crop_size, backbone.card.resize) == ((32, 48), (32, 48))
    image = backbone.transform("data/a/000.jpg")
    assert image.shape == (3, 32, 48)
    monkeypatch.setattr(sys, "argv", ["embed", "trained_models/wide", "data", "--out", "f.npz", "--num_workers", "0"])
    cli.run(embed.main)
    capsys.readouterr()
    features = torch.from_numpy(np.load("f.npz")["features"][0])
    torch.testing.assert_close(features, backbone(image[None])[0], atol=1e-5, rtol=1e-4)
    code, _, err = run(PRETRAIN, *flags[:-2], "--resume_training_from", "trained_models/wide", "--crop_size", "48")
    assert (code, err.count("\n")) == (2, 1)
    assert "--crop_size: got 48, expected 32 48" in err
