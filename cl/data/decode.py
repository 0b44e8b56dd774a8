"""Bytes of an image file -> RGB or grey uint8: every reader's only decoder outside of DALI."""

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

MAX_PIXELS = 2**28 // 3  # as Pillow's warning of decompression bombs


class BadImage(Exception):
    """A file that is no usable image; the text is the reason."""


class BrokenFile(Exception):
    """A file that was a usable image when the run began; the text says which, and what is wrong with it."""


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
    pixels = _plain_jpeg(data, channels) if _plain_size(data) else None
    if pixels is None:
        pixels = _with_pillow(_open(data), channels)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)


class LazyImage(NamedTuple):
    """An image whose size is known, and which is decoded when it is asked for."""

    height: int
    width: int
    pixels: Callable[[], Tensor]  # uint8 [C, H, W]


def lazy_image(data: bytes, channels: int = 3) -> LazyImage:
    """An encoded image, of which a plain JPEG is not decoded yet."""
    size = _plain_size(data)
    if size:
        return LazyImage(size[0], size[1], lambda: decode(data, channels))
    image = decode(data, channels)
    return LazyImage(image.shape[1], image.shape[2], lambda: image)


class EncodedImage(NamedTuple):
    """An image that every decoder reads alike, and its size."""

    data: bytes
    height: int
    width: int


def portable_image(data: bytes, channels: int = 3) -> EncodedImage:
    """An encoded image as it is if it is a plain JPEG; decoded, as PPM, where other decoders have other ideas."""
    size = _plain_size(data)
    return EncodedImage(data, *size) if size else as_ppm(decode(data, channels))


def as_ppm(image: Tensor) -> EncodedImage:
    """A uint8 image [C, H, W] as PPM, or PGM if it is grey."""
    channels, height, width = image.shape
    heading = f"P{6 if channels == 3 else 5}\n{width} {height}\n255\n".encode()
    return EncodedImage(heading + image.permute(1, 2, 0).numpy().tobytes(), height, width)


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


def _plain_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of an upright JPEG in colour or grey, as most files are; None for all others.

    Pillow is asked only if there is EXIF: to read the header takes it a tenth of the time of decoding.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
        return None
    turned = b"Exif\0" in data and _open(data).getexif().get(0x0112, 1) != 1
    return None if turned else (height, width)


def _plain_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """None if this decoder, which is Pillow's too, refuses: Pillow knows more odd files, and says what is wrong."""
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
        colours = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return np.array(upright.convert("RGB" if channels == 3 else "L"))
