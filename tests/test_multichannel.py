"""Images of more than three channels: 8 and 16 bits stay what they are, from the file to the features."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from cl import cli, embed
from cl.config.data import DataConfig
from cl.config.views import ViewsConfig
from cl.data.cache import cached, shrink
from cl.data.datamodule import ImageData
from cl.data.decoding.decode import decode
from cl.data.decoding.modes import BadImage
from cl.data.executors.device import apply_colours_
from cl.data.executors.resident import ResidentExecutor
from cl.data.executors.resident_images import load_into_memory
from cl.data.executors.torchvision import TorchvisionExecutor
from cl.data.executors.workers import WorkerExecutor
from cl.data.images import FileSet
from cl.data.sampler import RankSlice
from cl.data.settings import LoaderSettings
from cl.data.sources.labelling import places
from cl.data.sources.manifest import bad_files
from cl.data.views.norm import measure_norm
from cl.data.views.rows import RandomViews
from cl.data.views.spec import ViewSpec, linear_views
from cl.errors import UserError
from cl.run.weights.load import load_backbone
from tests.conftest import TINY, Run
from tests.pictures import plain
from tests.test_executors import CPU, batch_of, colour_params

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
PLAIN = ((0.0,) * 4, (1.0,) * 4)


def values(seed: int, height: int = 32, width: int = 32, channels: int = 4, bits: int = 16) -> np.ndarray:
    """A smooth picture [H, W, C] whose low bits are noise, and which has black and white."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.random((4, 4, channels)), np.ones((height // 4, width // 4, 1)))
    pixels = (coarse * 0.8 + random.random(coarse.shape) * 0.2) * (2**bits - 1)
    pixels[0, 0] = 0
    pixels[0, 1] = 2**bits - 1
    return np.rint(pixels).astype(np.uint16 if bits > 8 else np.uint8)


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **({"photometric": "minisblack", "planarconfig": "contig"} | options))
    return file.getvalue()


def npy(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


SIXTEEN = values(0, 20, 28)
EIGHT = values(1, 20, 28, bits=8)
SOUND = {
    "interleaved": (tiff(SIXTEEN), SIXTEEN),
    "one plane after the other": (tiff(planes(SIXTEEN), planarconfig="separate"), SIXTEEN),
    "a page for each channel": (tiff(planes(SIXTEEN), planarconfig=None, metadata=None), SIXTEEN),
    "as tifffile writes an array by itself": (tiff(SIXTEEN, planarconfig=None), SIXTEEN),
    "RGB and one more": (tiff(SIXTEEN, photometric="rgb", extrasamples=["unspecified"]), SIXTEEN),
    "RGB and alpha": (tiff(SIXTEEN, photometric="rgb", extrasamples=["unassalpha"]), SIXTEEN),
    "compressed": (tiff(SIXTEEN, compression="zlib", predictor=True), SIXTEEN),
    "in tiles, the other byte order": (tiff(SIXTEEN, tile=(16, 16), byteorder=">"), SIXTEEN),
    "8 bits": (tiff(EIGHT), EIGHT),
    "floats": (tiff((SIXTEEN / 65535).astype(np.float32)), SIXTEEN),
    "array": (npy(SIXTEEN), SIXTEEN),
    "array, channels first": (npy(planes(SIXTEEN)), SIXTEEN),
    "array in Fortran's order": (npy(np.asfortranarray(SIXTEEN)), SIXTEEN),
    "array of 8 bits": (npy(EIGHT), EIGHT),
    "array, the other byte order": (npy(SIXTEEN.astype(">u2")), SIXTEEN),
    "array of float64": (npy(SIXTEEN / 65535), SIXTEEN),
}


@pytest.mark.parametrize("name", SOUND)
def test_every_value_of_8_and_16_bits_comes_back(name: str) -> None:
    data, pixels = SOUND[name]
    image = decode(data, 4)
    assert image.dtype == torch.float32
    assert image.permute(1, 2, 0).is_contiguous()
    white = np.iinfo(pixels.dtype).max
    expected = torch.from_numpy((pixels / white).astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(image, expected, atol=1e-7, rtol=0)
    assert np.array_equal(np.rint(image.permute(1, 2, 0).numpy().astype(np.float64) * white), pixels)


def test_twelve_bits_white_is_zero_and_orientations_are_as_the_tags_say() -> None:
    twelve = SIXTEEN >> 4
    tagged = tiff(twelve, extratags=[(274, 3, 1, 6, True)])
    image = decode(tagged, 4).permute(1, 2, 0).numpy()
    assert np.array_equal(np.rint(image * 65535), np.rot90(twelve, -1))
    inverted = decode(tiff(EIGHT, photometric="miniswhite"), 4).permute(1, 2, 0).numpy()
    assert np.array_equal(np.rint(inverted * 255), 255 - EIGHT)


COLOUR = plain(3)
BAD = {
    "three channels": (tiff(SIXTEEN[:, :, :3]), "3 channels, expected 4 as --in_channels says"),
    "three channels, four pixels high": (tiff(SIXTEEN[:4, :, :3], photometric="rgb"), "3 channels, expected 4"),
    "grey": (tiff(SIXTEEN[:, :, 0]), "1 channel, expected 4"),
    "array of three channels": (npy(SIXTEEN[:, :, :3]), "3 channels, expected 4"),
    "array of one number": (npy(np.zeros(5)), "an array of shape 5, expected height x width x 4"),
    "no pixels": (npy(SIXTEEN[:0]), "an array of shape 0 x 28 x 4"),
    "signed": (npy(SIXTEEN.astype(np.int32)), "int32 pixels, whose range is not known"),
    "floats beyond 1": (npy(SIXTEEN.astype(np.float32)), "pixels from 0 to 65535, expected 0 to 1"),
    "not a number": (npy(np.full((4, 5, 4), np.nan, np.float32)), "pixels from nan to nan"),
    "objects": (npy(np.array([None] * 4, object).reshape(1, 1, 4)), "object pixels"),
    "truncated array": (npy(SIXTEEN)[:-9], "damaged"),
    "truncated TIFF": (tiff(SIXTEEN)[:900], "damaged"),
    "a lie about its size": (npy(SIXTEEN).replace(b"(20, 28, 4)", b"(99, 99, 4)"), "damaged"),
    "text": (b"<html>", "not an image, expected a TIFF or .npy file with 4 channels"),
    "empty": (b"", "empty file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_of_four_channels_is_bad_with_a_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(BadImage) as bad:
        decode(data, 4)
    assert reason in str(bad.value)


def test_a_file_of_four_channels_is_bad_where_three_are_expected_unless_the_fourth_is_alpha() -> None:
    for name in ("interleaved", "one plane after the other", "RGB and one more", "8 bits"):
        with pytest.raises(BadImage, match="4 channels, of which Pillow reads at most three"):
            decode(SOUND[name][0], 3)
    assert decode(SOUND["RGB and alpha"][0], 3).shape == (3, 20, 28)


def test_a_file_cut_anywhere_is_bad() -> None:
    for data in (SOUND["compressed"][0], SOUND["array"][0]):
        for size in range(0, len(data), 41):
            with pytest.raises(BadImage):
                decode(data[:size], 4)


def test_tiffs_without_tifffile_are_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"--in_channels: got TIFF .* pip install tifffile imagecodecs"):
        decode(SOUND["interleaved"][0], 4)
    assert decode(SOUND["array"][0], 4).shape == (4, 20, 28)


@pytest.fixture
def data(folder: Path) -> Path:
    """Two classes of 16-bit TIFFs, and a few arrays."""
    for number, name in enumerate(("field", "wood")):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(10):
            pixels = values(100 * number + i)
            path = folder / "data" / name / f"{i}"
            path.with_suffix(".tif" if i < 7 else ".npy").write_bytes(tiff(pixels) if i < 7 else npy(pixels))
    return folder / "data"


def sixteen_bits(image: Tensor) -> np.ndarray:
    """The integers of an image in [0, 1] that was not resized; AssertionError if they are none."""
    scaled = image.double().numpy() * 65535
    assert np.abs(scaled - np.rint(scaled)).max() < 0.02
    return np.rint(scaled)


def files_of(root: Path, names: list[str]) -> FileSet:
    return FileSet(root, names, np.full(len(names), -1), 4)


@pytest.mark.parametrize("flags", [{}, {"resident": "off"}, {"cache": "raw256"}, {"loader": "torchvision"}], ids=str)
def test_an_evaluation_view_holds_the_values_of_the_file(flags: dict[str, str], data: Path) -> None:
    config = DataConfig("custom", train_dir=str(data), in_channels=4, batch_size=20, num_workers=0, **flags)
    settings = LoaderSettings(config, linear_views(ViewsConfig(32)), seed=0, rank_slice=RankSlice(0, 1))
    module = ImageData(places(config, PLAIN), settings)
    (batch,) = module.eval_loader(module.splits.train)
    assert [batch.index[0].item(), batch.index[19].item()] == [0, 19]
    for position, seed in ((0, 0), (9, 9), (10, 100), (19, 109)):
        assert np.array_equal(sixteen_bits(batch.views[0][0][position]), planes(values(seed)))


@pytest.mark.parametrize("kind", [WorkerExecutor, ResidentExecutor])
def test_views_equal_those_of_the_reference(kind: Any, data: Path) -> None:
    names = [f"{name}/{i}.tif" for name in ("field", "wood") for i in range(7)]
    images = files_of(data, names)
    jitter = {"jitter_prob": 0.8, "brightness": 0.8, "contrast": 0.8, "solarize_prob": 0.3}
    specs = ((ViewSpec(24, blur_prob=0.5, **jitter),) * 2, (ViewSpec(16, (0.05, 0.3), **jitter),))
    planner = RandomViews(specs, seed=3)
    norm = measure_norm(images)
    actual = batch_of(
        kind(load_into_memory(images) if kind is ResidentExecutor else images, planner, norm, CPU), images
    )
    expected = batch_of(TorchvisionExecutor(images, planner, norm, CPU), images)
    for ours, theirs in zip(actual.views, expected.views, strict=True):
        assert ours.shape == theirs.shape
        assert ((ours - theirs).abs() > 1e-4).float().mean() < 1e-5
        assert len(ours[0, 0].unique()) > 256  # nothing was rounded to 8 bits


def test_contrast_blends_each_channel_with_its_own_mean() -> None:
    x = torch.from_numpy(planes(values(5)) / 65535).float()[None] * torch.tensor([0.1, 0.2, 0.4, 0.8]).view(4, 1, 1)
    factors = np.array([[1.0, 0.5, 1.0, 0.0]])
    result = apply_colours_(x.clone(), colour_params(1, order=np.array([[1, -1, -1, -1]]), factors=factors), kernel=3)
    torch.testing.assert_close(result, 0.5 * x + 0.5 * x.mean(dim=(2, 3), keepdim=True))


def test_a_cache_keeps_16_bits(tmp_path: Path) -> None:
    large = values(3, 320, 280)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/large.npy").write_bytes(npy(large))
    (tmp_path / "images/small.tif").write_bytes(tiff(SIXTEEN))
    (tmp_path / "images/eight.tif").write_bytes(tiff(EIGHT))
    images = files_of(tmp_path / "images", ["large.npy", "small.tif", "eight.tif"])
    copies = cached(images, "raw256", str(tmp_path / "cache"), workers=0)
    assert torch.equal(copies.read(1), images.read(1))
    assert torch.equal(copies.read(2), images.read(2))
    assert copies.read(0).shape == (4, 292, 256)
    torch.testing.assert_close(copies.read(0), shrink(images.read(0)), atol=0.6 / 65535, rtol=0)


def test_mean_and_std_are_per_channel_with_six_decimals(tmp_path: Path) -> None:
    dark = (values(4) * np.array([0.001, 0.01, 0.1, 1])).astype(np.uint16)
    (tmp_path / "dark.npy").write_bytes(npy(dark))
    mean, std = measure_norm(files_of(tmp_path, ["dark.npy"]))
    assert mean == pytest.approx((dark / 65535).mean(axis=(0, 1)), abs=1e-6)
    assert std == pytest.approx((dark / 65535).std(axis=(0, 1)), abs=1e-5)


def test_sixteen_bit_tiffs_train_evaluate_export_and_embed(
    run: Run, data: Path, pictures: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del pictures
    plain(1).save(data / "wood" / "photograph.png")
    (data / "wood" / "rgb.tif").write_bytes(tiff(SIXTEEN[:, :, :3]))
    images = ["custom", "resnet18", "--train_dir", "data", "--val_dir", "data"]
    flags = [*images, "--in_channels", "4", "--crop_size", "32"]
    short = ["--batch_size", "8", "--epochs", "1", "--num_workers", "0"]
    code, out, err = run(PRETRAIN, *flags, *TINY, *short, "--asymmetric_augmentations", "--run_id", "many")
    assert (code, err) == (0, "")
    assert "in_channels preset" in out
    skipped = "2 bad images are skipped, the first: data/wood/photograph.png (PNG, expected a TIFF or .npy"
    assert skipped in " ".join(out.split())
    assert (data.parent / "trained_models/many/views.png").stat().st_size > 0
    code, _, err = run(
        LINEAR, *flags, *short, "--pretrained_feature_extractor", "trained_models/many", "--protocol", "cached"
    )
    assert (code, err) == (0, "")
    backbone = load_backbone("trained_models/many")
    card = json.loads((data.parent / "trained_models/many/backbone.json").read_text())
    assert (card["in_channels"], len(card["mean"]), len(card["std"])) == (4, 4, 4)
    mean, std = (torch.tensor(card[name]).view(4, 1, 1) for name in ("mean", "std"))
    image: Tensor = backbone.transform("data/field/0.tif")
    assert np.array_equal(sixteen_bits(image * std + mean), planes(values(0)))
    monkeypatch.setattr(sys, "argv", ["embed", "trained_models/many", "data", "--out", "f.npz", "--num_workers", "0"])
    cli.run(embed.main)
    assert "skipped 2 of 22 files" in capsys.readouterr().out
    arrays = np.load("f.npz")
    row = arrays["paths"].tolist().index("field/0.tif")
    torch.testing.assert_close(
        torch.from_numpy(arrays["features"][row]), backbone(image[None])[0], atol=1e-5, rtol=1e-4
    )


def test_four_channels_among_three_are_counted_as_bad_and_named(data: Path) -> None:
    for i in range(3):
        plain(i).save(data / "field" / f"photograph{i}.png")
    (data / "field" / "many.tif").write_bytes(tiff(SIXTEEN, photometric="rgb", extrasamples=["unspecified"]))
    names = [f"field/photograph{i}.png" for i in range(3)] + ["field/many.tif"]
    assert bad_files(data, names, 3) == {
        "field/many.tif": "4 channels, of which Pillow reads at most three; expected at most three, or --in_channels 4"
    }
