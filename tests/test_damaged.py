"""Damaged files: no decoder crashes, hangs, or takes much memory; a damaged EXIF block leaves the pixels sound."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cl.data.decoding.decode import BOMB_PIXELS, decode, portable_image
from cl.data.decoding.modes import BadImage
from cl.data.sources import manifest
from tests.conftest import ROOT, Run
from tests.damaged import _encode
from tests.pictures import plain, write_classes
from tests.test_folders import PRETRAIN, SHORT


def decode_damaged(*flags: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.damaged", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert min(result["images"].values()) > 0  # the damage is not always fatal
    return result


def test_ten_thousand_damaged_files_are_images_or_bad_images() -> None:
    result = decode_damaged("10500")
    assert result["slowest_s"] < 5
    assert result["growth_mib"] < 500


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["200000", "--seed", "1"], ["14000", "--seed", "2", "--size", "1000", "1300"]])
def test_minutes_of_damaged_files_are_images_or_bad_images(flags: list[str]) -> None:
    result = decode_damaged(*flags)
    print(result)
    assert result["slowest_s"] < 5
    assert result["growth_mib"] < 500


def test_whatever_a_decoder_raises_is_a_bad_image_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _encode(plain(1), "PNG")
    for error in (struct.error("unpack"), RecursionError(), ZeroDivisionError(), SystemError("a\nb"), KeyError("x")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        with pytest.raises(BadImage, match=r"^damaged: [^\n]+$"):
            decode(data)


EXIF = {
    "blank": b"Exif\0\0",
    "short": b"Exif\0\0II",
    "not_tiff": b"Exif\0\0b'Exif\\x00",
    "ifd_outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "ifd_loop": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "orientation_text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0a\0\0\0\0\0\0\0",
    "orientation_two": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x06\0\0\0\0\0",
    "orientation_0": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0\0\0\0\0",
    "orientation_9": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
    "orientation_fraction": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x08\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", EXIF)
def test_a_damaged_exif_block_means_upright_and_the_pixels_are_sound(name: str, format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    plain_file = _encode(plain(1), format, **options)
    with_exif = _encode(plain(1), format, exif=EXIF[name], **options)
    expected = decode(plain_file).numpy()
    if name != "orientation_two":  # a list whose first value is a good orientation may count
        assert np.array_equal(decode(with_exif).numpy(), expected)
    portable = portable_image(with_exif)
    assert {portable.height, portable.width} == {40, 48}


def test_photographs_with_damaged_exif_train_with_every_loader(folder: Path, run: Run) -> None:
    write_classes(folder / "data", {"ant": 12, "bee": 12})
    for name, exif in EXIF.items():
        plain(1).save(folder / f"data/ant/{name}.jpg", exif=exif)
    for loader in ("fast", "torchvision", "dali"):
        code, out, err = run(PRETRAIN, *SHORT, "--train_dir", "data", "--loader", loader, "--run_id", loader)
        assert (code, err) == (0, ""), loader
        assert f"{24 + len(EXIF)} for training" in out
        assert "bad images" not in out


def png_of(side: int) -> bytes:
    """A grey PNG of that size with no pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(b"")]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def jpeg_of(side: int) -> bytes:
    """A small JPEG that states another size."""
    small = _encode(plain(1), "JPEG")
    start = small.index(b"\xff\xc0") + 5
    return small[:start] + struct.pack(">HH", side, side) + small[start + 4 :]


BOMBS = [png_of(20_000), png_of(5_000), jpeg_of(9_000), b"P5 60000 60000 255\n", b"P6 5000 5000 255\n"]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_a_decompression_bomb_is_refused_before_it_is_decoded(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIL.ImageFile.ImageFile.load", "simplejpeg.decode_jpeg"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="more than"):
        decode(bomb)


def test_a_large_photograph_is_no_bomb() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    photograph = Image.fromarray(noise).resize((5_000, 4_000))
    assert photograph.width * photograph.height > BOMB_PIXELS
    assert decode(_encode(photograph, "JPEG")).shape == (3, 4_000, 5_000)


def test_the_check_prints_nothing_that_libtiff_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(_encode(plain(1), "TIFF", compression="tiff_lzw"))
    offset = TiffImagePlugin.TiffImageFile(str(_write(tmp_path / "sound.tif", bytes(content)))).tag_v2[273][0]
    content[offset : offset + 200] = b"\xff" * 200
    _write(tmp_path / "damaged.tif", bytes(content))
    assert list(manifest.bad_files(tmp_path, ["sound.tif", "damaged.tif"], 3)) == ["damaged.tif"]
    assert capfd.readouterr() == ("", "")


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
