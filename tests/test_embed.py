"""`python -m cl.embed`: features, paths and neighbours of any folder of images."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cl
from cl import cli, embed
from cl.backbones.card import Card
from cl.evaluation import neighbours
from cl.evaluation.neighbours import nearest_neighbours
from cl.run.weights.export import export
from tests.pictures import BAD, GOOD, plain, write_odd


@pytest.fixture
def run_folder(folder: Path) -> Path:
    """A run folder with an untrained backbone."""
    card = Card("resnet18", "small", 4, 3, 32, 32, (0.5,) * 3, (0.2,) * 3, (), "simclr", {}, "0.1.0")
    torch.manual_seed(0)
    (folder / "run").mkdir()
    export(card.build(), card, folder / "run")
    return folder / "run"


@pytest.fixture
def images(folder: Path) -> Path:
    """Good and bad files, some in subfolders, and a copy of one of them."""
    write_odd(folder / "images")
    (folder / "images/deep/er").mkdir(parents=True)
    shutil.copy(folder / "images/upright.jpg", folder / "images/deep/er/copy.jpg")
    plain(3).save(folder / "images/deep/other.png")
    return folder / "images"


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["embed", *arguments])
    code = 0
    try:
        cli.run(embed.main)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def test_the_file_has_the_backbones_features_and_the_nearest_neighbours(
    run_folder: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", "images", "--out", "f.npz", "--num_workers", "0", "--neighbours", "3", "--batch_size", "5"]
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, err) == (0, "")
    count, bad = len(GOOD) + 2, len(BAD)
    assert out.startswith(
        f"f.npz: features {count} x 32, paths, 3 neighbours of each; skipped {bad} of {count + bad} files: "
    )
    saved = np.load("f.npz")
    paths = saved["paths"].tolist()
    assert paths == sorted([*GOOD, "deep/other.png", "deep/er/copy.jpg"], key=os.fsencode)
    assert (saved["features"].dtype, saved["features"].shape) == (np.float32, (count, 32))
    backbone = cl.load_backbone(run_folder)
    for name in ("alpha.png", "deep/other.png", "turned.jpg"):
        with torch.no_grad():
            expected = backbone(backbone.transform(Image.open(images / name))[None])[0].numpy()
        assert np.allclose(saved["features"][paths.index(name)], expected, rtol=1e-4, atol=1e-6)
    copies = [paths.index(name) for name in ("upright.jpg", "deep/er/copy.jpg")]
    assert [saved["neighbours"][row, 0] for row in copies] == copies[::-1]
    assert np.allclose(saved["cosine"][copies, 0], 1)


def test_a_single_image_has_no_neighbours(
    run_folder: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "one").mkdir()
    plain(1).save(folder / "one/a.png")
    arguments = ["run/backbone.safetensors", "one", "--out", "f.npz", "--num_workers", "0"]
    assert call(capsys, monkeypatch, *arguments) == (0, "f.npz: features 1 x 32, paths, 0 neighbours of each\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nothing images --out f.npz", "RUN: got nothing, expected a run folder"),
        ("run nothing --out f.npz", "FOLDER: got nothing, expected a folder"),
        ("run images/page.jpg --out f.npz", "FOLDER: got images/page.jpg, expected a folder"),
        ("run empty --out f.npz", "FOLDER: got empty, expected images"),
        ("run images --out nowhere/f.npz", "--out: got nowhere/f.npz, expected a file in a folder that can be written"),
        ("run images --out images", "--out: got images, expected a file"),
        ("run images --out f.npz --neighbours -1", "--neighbours: got -1, expected at least 0"),
        ("run images --out f.npz --batch_size 1", "--batch_size: got 1"),
        ("run images --out f.npz", "FOLDER: got images, expected images; none of its 1 images decodes; not an image"),
        ("images/page.jpg images --out f.npz", "RUN: got images/page.jpg; images/page.jpg cannot be read as weights"),
    ],
)
def test_a_mistake_prints_one_line_and_writes_nothing(
    arguments: str,
    message: str,
    run_folder: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("empty", "images"):
        (folder / name).mkdir()
    (folder / "images/page.jpg").write_text("<html></html>")
    code, out, err = call(capsys, monkeypatch, *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message}")
    assert not (folder / "f.npz").exists()


def test_neighbours_in_chunks_match_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", 4)
    features = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    cosine, index = nearest_neighbours(features, 3)
    for i in range(11):
        others = [(float(torch.cosine_similarity(features[i], features[j], dim=0)), j) for j in range(11) if j != i]
        nearest = sorted(others, reverse=True)[:3]
        assert index[i].tolist() == [j for _, j in nearest]
        assert cosine[i].tolist() == pytest.approx([s for s, _ in nearest], abs=1e-6)
    assert nearest_neighbours(features, 99)[1].shape == (11, 10)


def test_an_image_whose_features_are_not_finite_is_named_and_nothing_is_written(
    run_folder: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cl.backbones.resnet import ResNetBackbone

    forward = ResNetBackbone.forward

    def spoiled(self: ResNetBackbone, x: torch.Tensor) -> torch.Tensor:
        features = forward(self, x)
        return features.masked_fill(torch.arange(len(features))[:, None] == 2, torch.nan)

    monkeypatch.setattr("cl.run.weights.load.check_features", lambda *_: None)
    monkeypatch.setattr(ResNetBackbone, "forward", spoiled)
    code, out, err = call(capsys, monkeypatch, "run", "images", "--out", "f.npz", "--num_workers", "0")
    assert (code, out, err.count("\n")) == (3, "", 1)
    name = sorted([*GOOD, "deep/other.png", "deep/er/copy.jpg"], key=os.fsencode)[2]
    assert f"the features of 1 of {len(GOOD) + 2} images are not finite, the first of image images/{name}" in err
    assert not Path("f.npz").exists()


def test_a_wrong_weights_key_is_refused(
    run_folder: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, "run", "images", "--out", "f.npz", "--weights_key", "teacher")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--weights_key: got teacher, expected none, since the only network is without a key, in run (backbone" in err
