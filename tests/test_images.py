"""Odd images that break runs of other tools: read as they should look, or skipped and named."""

import contextlib
import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cl.data.decoding.decode import decode, read_image
from cl.data.decoding.modes import BadImage
from cl.data.sources import manifest
from cl.data.sources.manifest import check_file
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.pictures import BAD, GOOD, plain, sixteen_bit, write_classes, write_odd

PRETRAIN = "main_contrastive.py"
FLAGS = ["custom", "resnet18", "--train_dir", "data", *TINY, "--crop_size", "32", "--batch_size", "16", "--epochs", "1"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    write_odd(tmp_path / "odd")
    return tmp_path / "odd"


def pixels(path: Path, channels: int = 3) -> np.ndarray:
    return read_image(path, channels).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_reason(name: str, odd: Path) -> None:
    check = check_file(odd / name, channels=3)
    assert BAD[name] in check.reason
    assert check.was_read == (name != "dangling.jpg")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", GOOD)
def test_a_good_odd_file_becomes_uint8_with_the_requested_channels(name: str, channels: int, odd: Path) -> None:
    image = read_image(odd / name, channels)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()  # the layout that decoders write and torch resizes fastest
    assert tuple(image.shape) == (channels, *((1, 300) if name == "line.png" else (40, 48)))


def test_sixteen_bits_are_divided_by_257_not_clipped(odd: Path) -> None:
    expected = np.rint(sixteen_bit() / 257).astype(np.uint8)
    for channels in (1, 3):
        assert np.array_equal(pixels(odd / "sixteen_bit.png", channels), expected[:, :, None].repeat(channels, axis=2))


def test_transparent_pixels_become_white(odd: Path) -> None:
    image = pixels(odd / "alpha.png")
    assert (image[:, :24] == 255).all()
    assert np.array_equal(image[:, 24:], np.asarray(plain(7))[:, 24:])
    palette = Image.open(odd / "palette.png").convert("RGBA")
    transparent = np.asarray(palette)[:, :, 3] == 0
    assert transparent.any()
    assert (pixels(odd / "palette.png")[transparent] == 255).all()
    assert np.array_equal(pixels(odd / "palette.png")[~transparent], np.asarray(palette)[:, :, :3][~transparent])


def test_a_rotated_photograph_becomes_upright(odd: Path) -> None:
    turned = pixels(odd / "turned.jpg").astype(int)
    assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(Image.open(odd / "turned.jpg"))))
    assert np.abs(turned - pixels(odd / "upright.jpg")).mean() < 2


def test_cmyk_grey_gif_and_plain_jpegs_match_pillow(odd: Path) -> None:
    for name in ("cmyk.jpg", "grey.jpg", "moving.gif", "upright.jpg"):
        assert np.array_equal(pixels(odd / name), np.asarray(Image.open(odd / name).convert("RGB"))), name


def test_a_file_cut_anywhere_is_an_image_or_a_bad_image(odd: Path) -> None:
    for name in ("upright.jpg", "alpha.png", "moving.gif"):
        content = (odd / name).read_bytes()
        for size in range(0, len(content), 37):
            with contextlib.suppress(BadImage):
                assert decode(content[:size]).dtype == torch.uint8


@pytest.fixture
def data(folder: Path) -> Path:
    """Two classes of plain images, and a third of odd files."""
    write_classes(folder / "data", {"plain": 12, "other": 12})
    write_odd(folder / "data/odd")
    return folder / "data"


def test_every_loader_skips_bad_files_and_lists_each_once_with_any_workers(run: Run, data: Path) -> None:
    metrics, losses = [], []
    for loader, workers in (("fast", "0"), ("fast", "2"), ("torchvision", "2"), ("dali", "2")):
        name = f"{loader}-{workers}"
        code, out, err = run(PRETRAIN, *FLAGS, "--loader", loader, "--num_workers", workers, "--run_id", name)
        assert (code, err) == (0, "")
        assert f"{24 + len(GOOD)} for training" in out
        assert f"{len(BAD)} bad images are skipped" in out
        with (data.parent / f"trained_models/{name}/bad_images.csv").open() as file:
            listed = list(csv.DictReader(file))
        assert sorted(Path(row["file"]).name for row in listed) == sorted(BAD)
        assert all(BAD[Path(row["file"]).name] in row["reason"] for row in listed)
        metrics.append((data.parent / f"trained_models/{name}/metrics.csv").read_bytes())
        with (data.parent / f"trained_models/{name}/metrics.csv").open() as file:
            losses += [float(row["loss"]) for row in csv.DictReader(file)]
    assert metrics[0] == metrics[1]
    assert losses == pytest.approx([losses[0]] * 4, rel=0.01)


def test_trusted_files_are_looked_at_when_they_are_needed(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next image takes the place of a broken one, whatever the loader and its workers; each is listed once."""
    monkeypatch.setattr("cl.data.sources.folders.bad_files", lambda *_: pytest.fail("checked"))
    losses = []
    for loader, workers in (("fast", "0"), ("fast", "2"), ("torchvision", "0")):
        name = f"{loader}-{workers}"
        flags = ["--bad_images", "trust", "--loader", loader, "--num_workers", workers, "--run_id", name]
        code, out, err = run(PRETRAIN, *FLAGS, *flags, "--last_batch_fill")
        assert code == 0
        assert f"{24 + len(GOOD) + len(BAD) - 1} for training" in out
        assert "1 bad images are skipped, the first: data/odd/dangling.jpg" in out  # the listing says so
        with (data.parent / f"trained_models/{name}/bad_images.csv").open() as file:
            listed = list(csv.DictReader(file))
        assert sorted(Path(row["file"]).name for row in listed) == sorted(BAD)
        assert all(BAD[Path(row["file"]).name] in row["reason"] for row in listed)
        assert err.count("; the next image takes its place (") == err.count("\n") == len(BAD) - 1
        with (data.parent / f"trained_models/{name}/metrics.csv").open() as file:
            losses += [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[0] == losses[1]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.01)


def test_names_that_are_not_utf8_are_escaped_and_do_not_end_a_run(run: Run, data: Path) -> None:
    (data / "odd").rename(data / os.fsdecode(b"class_\xff"))
    (data / "other" / os.fsdecode(b"a_\xfe.jpg")).write_bytes(b"")
    code, out, err = run(PRETRAIN, *FLAGS, "--num_workers", "0")
    assert (code, err) == (0, "")
    assert "7 bad images are skipped, the first: data/class_\\udcff/bomb.png" in out
    code, _, err = run(PRETRAIN, *FLAGS, "--bad_images", "error")
    assert (code, err.count("\n")) == (2, 1)


def test_bad_images_error_stops_before_the_first_step(run: Run, data: Path) -> None:
    code, out, err = run(PRETRAIN, *FLAGS, "--bad_images", "error")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --bad_images: got error, but ")
    assert f"and {len(BAD) - 1} more" in err
    assert not (data.parent / "trained_models").exists()


def test_a_file_is_checked_again_only_when_it_or_the_manifest_changes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"plain/{i:03d}.jpg" for i in range(12)]
    checked: list[str] = []
    original = manifest.read_image
    monkeypatch.setattr(manifest, "read_image", lambda path, c: checked.append(path.name) or original(path, c))
    assert manifest.bad_files(data, names, 3) == {}
    assert len(checked) == 12
    (data / "plain/003.jpg").write_bytes(b"")
    os.utime(data / "plain/003.jpg", ns=(1, 1))
    assert manifest.bad_files(data, names, 3) == {"plain/003.jpg": "empty file"}
    assert checked[12:] == ["003.jpg"]
    manifest.manifest_path(data, 3).write_text("{ damaged")
    assert manifest.bad_files(data, names, 3) == {"plain/003.jpg": "empty file"}
    assert len(checked) == 25


def test_the_check_command_lists_bad_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cl.data import check

    with pytest.raises(SystemExit) as end:
        check.main([str(data)])
    out = capsys.readouterr().out
    assert end.value.code == 1
    assert f"{24 + len(GOOD)} of {24 + len(GOOD) + len(BAD)} images are good" in out
    assert all(out.count(f"odd/{name}: ") == 1 for name in BAD)
    with pytest.raises(UserError, match=r"FOLDER: got .*nowhere, expected a folder"):
        check.main([str(data / "nowhere")])
