"""Bytes of an image file -> RGB or grey uint8: every reader's only decoder outside of DALI."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 2**28 // 3  # as Pillow's warning of decompression bombs


class BadImage(Exception):
    """A file that is no usable image; the text is the reason."""


def read_image(path: Path, channels: int = 3) -> Tensor:
    """The file as uint8 [channels, H, W]; BadImage says why not."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from None
    return decode(data, channels)


def decode(data: bytes, channels: int = 3) -> Tensor:
    """An encoded image as uint8 [channels, H, W], upright, 3 channels RGB or 1 channel grey; BadImage says why not.

    In memory the channels come last, as decoders write them.

    EXIF orientation is applied; 16-bit grey is divided by 257, so that nothing is clipped; what is transparent becomes
    white.
    """
    if not data:
        raise BadImage("empty file")
    picture = _open(data)
    pixels = _plain_jpeg(data, picture, channels)
    if pixels is None:
        pixels = _with_pillow(picture, channels)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)


class Encoded(NamedTuple):
    """An image that every decoder reads alike, and its size."""

    data: bytes
    height: int
    width: int


def plain(data: bytes, channels: int = 3) -> Encoded:
    """An encoded image as it is if it is a plain JPEG; decoded, as PPM, where other decoders have other ideas."""
    picture = _open(data) if data else None
    if picture is not None and _is_plain_jpeg(picture):
        return Encoded(data, picture.height, picture.width)
    return as_ppm(decode(data, channels))


def as_ppm(image: Tensor) -> Encoded:
    """A uint8 image [C, H, W] as PPM, or PGM if it is grey."""
    channels, height, width = image.shape
    heading = f"P{6 if channels == 3 else 5}\n{width} {height}\n255\n".encode()
    return Encoded(heading + image.permute(1, 2, 0).numpy().tobytes(), height, width)


def _open(data: bytes) -> Image.Image:
    """The header alone: format, size, mode, orientation."""
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


def _plain_jpeg(data: bytes, picture: Image.Image, channels: int) -> np.ndarray | None:
    """The fast way for most files, None if it does not apply; its decoder is Pillow's too, without the copies."""
    if not _is_plain_jpeg(picture):
        return None
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB" if channels == 3 else "GRAY")
    except ValueError:
        return None  # Pillow knows more odd files, and says what is wrong with the others


def _is_plain_jpeg(picture: Image.Image) -> bool:
    return picture.format == "JPEG" and picture.mode in ("RGB", "L") and picture.getexif().get(0x0112, 1) == 1


def _with_pillow(picture: Image.Image, channels: int) -> np.ndarray:
    try:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise BadImage(f"damaged: {error}") from None
    if upright.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
        upright = Image.fromarray(np.rint(np.clip(np.asarray(upright), 0, 65535) / 257).astype(np.uint8))
    if upright.has_transparency_data:
        colours = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return np.array(upright.convert("RGB" if channels == 3 else "L"))
