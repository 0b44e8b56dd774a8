"""Pictures of every mode become 8 bits as docs/images.md says, or are bad images with a reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cl.backbones.card import Card
from cl.data.decoding.decode import decode, read_image
from cl.data.decoding.modes import BadImage, to_8_bits
from cl.run.weights.load import Transform
from tests.pictures import plain

RAMP = np.linspace(0, 1, 40 * 48).reshape(40, 48)
GREY = np.rint(RAMP * 255).astype(np.uint8)
COLOUR = np.asarray(plain(3))


def encoded(pixels: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def as_type(dtype: type, white: float) -> np.ndarray:
    scaled = RAMP * white
    return scaled.astype(dtype) if np.issubdtype(dtype, np.floating) else np.rint(scaled).astype(dtype)


def planes_of_16_bits() -> bytes:
    """An uncompressed TIFF of two pixels with 16-bit channels, one channel after the other."""
    lists = {258: (3, (16, 16, 16)), 273: (4, (164, 168, 172)), 279: (4, (4, 4, 4))}
    singles = {256: 2, 257: 1, 259: 1, 262: 2, 277: 3, 278: 1, 284: 2}
    after = {258: 134, 273: 140, 279: 152}
    entries = {tag: (3, 1, value) for tag, value in singles.items()}
    entries |= {tag: (kind, 3, after[tag]) for tag, (kind, _) in lists.items()}
    directory = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    values = b"".join(struct.pack("<3H" if kind == 3 else "<3I", *numbers) for kind, numbers in lists.values())
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", 0)
    return head + values + struct.pack("<6H", 2570, 5140, 7710, 10280, 12850, 15420)


WHITE_IS_ZERO = {262: 0}
SOUND = {
    "float TIFF in [0, 1]": encoded(as_type(np.float32, 1), "TIFF"),
    "float TIFF in which 0 is white": encoded(1 - as_type(np.float32, 1), "TIFF", tiffinfo=WHITE_IS_ZERO),
    "portable float map": encoded(as_type(np.float32, 1), "PPM"),
    "16-bit PNG": encoded(as_type(np.uint16, 65535), "PNG"),
    "16-bit TIFF": encoded(as_type(np.uint16, 65535), "TIFF"),
    "16-bit TIFF, compressed": encoded(as_type(np.uint16, 65535), "TIFF", compression="tiff_lzw"),
    "16-bit TIFF in which 0 is white": encoded(65535 - as_type(np.uint16, 65535), "TIFF", tiffinfo=WHITE_IS_ZERO),
    "16-bit JPEG 2000": encoded(as_type(np.uint16, 65535), "JPEG2000"),
    "16-bit PGM": encoded(as_type(np.uint16, 65535), "PPM"),
    "12-bit PGM": b"P5 48 40 4095\n" + as_type(np.uint16, 4095).astype(">u2").tobytes(),
    "8-bit TIFF": encoded(GREY, "TIFF"),
    "grey with alpha": encoded(Image.fromarray(GREY).convert("LA"), "PNG"),
    "CIELAB TIFF": encoded(Image.fromarray(GREY).convert("RGB").convert("LAB"), "TIFF"),
    "CMYK TIFF": encoded(Image.fromarray(GREY).convert("CMYK"), "TIFF"),
    "lossless WebP": encoded(Image.fromarray(GREY).convert("RGB"), "WEBP", lossless=True),
    "QOI": encoded(Image.fromarray(GREY).convert("RGB"), "QOI"),
}
BAD = {
    "float TIFF in [0, 255]": (encoded(as_type(np.float32, 255), "TIFF"), "pixels from 0 to 255, expected 0 to 1"),
    "negative float TIFF": (encoded(as_type(np.float32, 1) - 0.5, "TIFF"), "pixels from -0.5 to 0.5"),
    "TIFF with NaN": (encoded(np.where(RAMP > 0.9, np.nan, RAMP).astype(np.float32), "TIFF"), "nan"),
    "TIFF with infinity": (encoded(np.where(RAMP > 0.9, np.inf, RAMP).astype(np.float32), "TIFF"), "inf"),
    "32-bit TIFF": (encoded(as_type(np.int32, 65535), "TIFF"), "whose range is not known"),
    "signed 8-bit TIFF": (encoded(GREY, "TIFF", tiffinfo={339: 2}), "whose range is not known"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC, which needs pillow-heif"),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "JPEG XL, which needs pillow-jxl-plugin"),
    "16-bit colour TIFF in planes": (planes_of_16_bits(), "16-bit channels stored one after the other"),
    "64-bit TIFF": (b"II*\0\x08\0\0\0\0\0", "not an image that Pillow can read, though it begins as TIFF does"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SOUND)
def test_grey_levels_survive_in_every_mode(name: str, channels: int) -> None:
    image = decode(SOUND[name], channels).numpy()
    assert image.dtype == np.uint8
    assert image.shape == (channels, 40, 48)
    assert np.abs(image.astype(int) - GREY).max() <= (3 if "LAB" in name else 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BAD)
def test_pixels_of_unknown_range_are_a_bad_image_not_black_or_white(name: str, channels: int) -> None:
    data, reason = BAD[name]
    with pytest.raises(BadImage, match=reason):
        decode(data, channels)


def test_the_value_that_a_16_bit_png_names_transparent_becomes_white() -> None:
    values = as_type(np.uint16, 65535)
    image = decode(encoded(values, "PNG", transparency=int(values[0, 5])), 1)
    assert int(image[0, 0, 5]) == 255
    assert int(image[0, 0, 6]) == GREY[0, 6]


MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"),
    *("F", "I;16", "I;16L", "I;16B", "I;16N"),
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_becomes_8_bits(mode: str, channels: int) -> None:
    black = to_8_bits(Image.new(mode, (5, 4)), channels)
    assert black.dtype == np.uint8
    assert black.shape == (4, 5, channels)


def test_a_large_picture_is_converted_in_strips_of_equal_pixels() -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 700, 4), np.uint8))
    white = Image.new("RGBA", tall.size, "white")
    assert np.array_equal(to_8_bits(tall, 3), np.asarray(Image.alpha_composite(white, tall).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, compressed", "TIFF with XMP"])
def test_every_orientation_becomes_upright_once(kind: str, orientation: int, channels: int) -> None:
    """Pillow turns a TIFF itself when it is loaded, and nothing else."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = COLOUR[:, :30]
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    data = {
        "PNG": lambda: encoded(stored, "PNG", exif=exif),
        "TIFF": lambda: encoded(stored, "TIFF", exif=exif),
        "TIFF, compressed": lambda: encoded(stored, "TIFF", exif=exif, compression="tiff_lzw"),
        "TIFF with XMP": lambda: encoded(stored, "TIFF", tiffinfo={700: xmp}),
    }[kind]()
    by_png = encoded(stored, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(by_png))).convert("RGB" if channels == 3 else "L")
    assert np.array_equal(decode(data, channels).permute(1, 2, 0).numpy().squeeze(), np.asarray(upright))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_its_picture_and_its_path_give_the_transform_the_same_pixels(channels: int, tmp_path: Path) -> None:
    mean = (0.5,) * channels
    card = Card("resnet18", "small", 4, channels, 32, 32, mean, mean, (), "simclr", {}, "0.1.0")
    transform = Transform(card)
    for number, data in enumerate((*SOUND.values(), encoded(plain(5).convert("RGBA"), "PNG"))):
        path = tmp_path / f"{number}.img"
        path.write_bytes(data)
        assert torch.equal(transform(path), transform(Image.open(path)))
        assert torch.equal(read_image(path, channels), decode(data, channels))


@pytest.mark.parametrize(
    ("depth", "colour", "transparent"), [(2, 0, b"\0\1"), (4, 0, b"\0\5"), (16, 2, b"\x12\x34\0\0\0\0")]
)
def test_a_transparent_colour_that_pillow_misreads_is_a_bad_image(depth: int, colour: int, transparent: bytes) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    chunks = [header, b"tRNS" + transparent, b"IDAT" + zlib.compress(bytes(13)), b"IEND"]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    with pytest.raises(BadImage, match="transparent colour"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
