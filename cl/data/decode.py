"""Bytes of an image file -> RGB or grey uint8: every reader's only decoder outside of DALI."""

import io
import warnings
from pathlib import Path

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

    EXIF orientation is applied; 16-bit grey is divided by 257, so that nothing is clipped; what is transparent becomes
    white.
    """
    if not data:
        raise BadImage("empty file")
    picture = _open(data)
    pixels = _plain_jpeg(data, picture, channels)
    if pixels is None:
        pixels = _with_pillow(picture, channels)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1).contiguous()


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
    if picture.format != "JPEG" or picture.mode not in ("RGB", "L") or picture.getexif().get(0x0112, 1) != 1:
        return None
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB" if channels == 3 else "GRAY")
    except ValueError:
        return None  # Pillow knows more odd files, and says what is wrong with the others


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
