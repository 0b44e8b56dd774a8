"""Decode the bytes of an image file to RGB or grey uint8: the only decoder outside DALI."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 2**28 // 3  # where Pillow warns about decompression bombs


class BadImage(Exception):
    """The file is not a usable image; the text gives the reason."""


class BrokenFile(Exception):
    """The file was a usable image when the run began; the text gives its path and the reason."""


def read_image(path: Path, channels: int = 3) -> Tensor:
    """Read a file as uint8 [channels, H, W]; raise BadImage with the reason if that fails."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from None
    return decode(data, channels)


def decode(data: bytes, channels: int = 3) -> Tensor:
    """Decode an image to uint8 [channels, H, W], 3 channels RGB or 1 channel grey; raise BadImage with the reason.

    In memory the channels come last, as decoders write them. EXIF orientation is applied, 16-bit grey is divided by 257
    rather than clipped, and transparent pixels become white.
    """
    if not data:
        raise BadImage("empty file")
    pixels = _plain_jpeg(data, channels) if _plain_size(data) else None
    if pixels is None:
        pixels = _with_pillow(_open(data), channels)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)


class LazyImage(NamedTuple):
    """An image of known size that is decoded on demand."""

    height: int
    width: int
    pixels: Callable[[], Tensor]  # uint8 [C, H, W]


def lazy_image(data: bytes, channels: int = 3) -> LazyImage:
    """A LazyImage of encoded bytes; only a plain JPEG is decoded later, anything else is decoded now."""
    size = _plain_size(data)
    if size:
        return LazyImage(size[0], size[1], lambda: decode(data, channels))
    image = decode(data, channels)
    return LazyImage(image.shape[1], image.shape[2], lambda: image)


class EncodedImage(NamedTuple):
    """Bytes that all decoders decode alike, and the size of the image."""

    data: bytes
    height: int
    width: int


def portable_image(data: bytes, channels: int = 3) -> EncodedImage:
    """A plain JPEG unchanged; anything else decoded and stored as PPM, because decoders differ on it."""
    size = _plain_size(data)
    return EncodedImage(data, *size) if size else as_ppm(decode(data, channels))


def as_ppm(image: Tensor) -> EncodedImage:
    """Encode a uint8 image [C, H, W] as PPM, or as PGM if it is grey."""
    channels, height, width = image.shape
    header = f"P{6 if channels == 3 else 5}\n{width} {height}\n255\n".encode()
    return EncodedImage(header + image.permute(1, 2, 0).numpy().tobytes(), height, width)


def _open(data: bytes) -> Image.Image:
    """Read only the header: format, size, mode, orientation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise BadImage("not an image") from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImage(f"damaged: {error}") from None
    if picture.width * picture.height > MAX_PIXELS:
        raise BadImage(f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")
    return picture


def _plain_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of an upright JPEG in colour or grey, which most files are; None for anything else.

    Pillow reads the header only if there is EXIF data: that takes a tenth of the decoding time.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
        return None
    rotated = b"Exif\0" in data and _open(data).getexif().get(0x0112, 1) != 1
    return None if rotated else (height, width)


def _plain_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """None if libjpeg fails. Pillow uses it too, but decodes more odd files and reports what is wrong."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB" if channels == 3 else "GRAY")
    except ValueError:
        return None


def _with_pillow(picture: Image.Image, channels: int) -> np.ndarray:
    try:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise BadImage(f"damaged: {error}") from None
    if upright.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
        upright = Image.fromarray(np.rint(np.clip(np.asarray(upright), 0, 65535) / 257).astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(upright.convert("RGB" if channels == 3 else "L"))
