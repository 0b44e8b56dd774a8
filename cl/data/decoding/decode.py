"""Image files and their bytes -> RGB or grey uint8, or floats of more channels: the only decoder outside DALI."""

import errno
import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from cl.config.data import COLOURS
from cl.data.decoding.formats import PLUGINS, kind_of, readable_formats
from cl.data.decoding.modes import SAMPLES, BadImage, orientation_of, to_8_bits, too_many_channels
from cl.data.decoding.multichannel import decode_multichannel
from cl.errors import Stopped, UserError

T = TypeVar("T")

# A picture of this size takes four bytes a pixel in Pillow and three as an array, together 470 MB.
MAX_PIXELS = 2**26
MAX_BYTES = 2**28  # of a file, which is read whole
# A larger picture of fewer bytes than its pixels / BOMB_RATIO is taken for a decompression bomb.
BOMB_PIXELS = 2**24
BOMB_RATIO = 1000
ORIENTATION_MARKS = (b"Exif\0", b"tiff:Orientation")  # of EXIF and XMP
PAUSES = (0.2, 1.0, 3.0)  # seconds between attempts to read a file
# Errors that stay until somebody changes the file: it is missing, or this user may not read it.
LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EACCES, errno.EPERM}
)


class TooLittleMemory(BadImage):
    """The image is damaged, or it may be sound and the machine is short of memory."""


class BrokenFile(Stopped):
    """The file was a usable image when it was checked; the text gives its path and the reason."""

    def __init__(self, message: str, path: str = "", reason: str = "") -> None:
        super().__init__(message, 1)
        self.path = path
        self.reason = reason  # why the file itself is bad; "" for an outage or a lack of memory


def read_image(path: Path, channels: int = 3) -> Tensor:
    """Read a file as `decode` does; BadImage if its content is no usable image, OSError if it has none."""
    return decode(read_file(path), channels)


def read_file(path: Path) -> bytes:
    """The content of a file."""
    return patiently(path.read_bytes)


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns; a network or disk that fails for a moment is asked again."""
    for pause in PAUSES:
        try:
            return ask()
        except OSError as error:
            if error.errno in LASTING:
                raise
        time.sleep(pause)
    return ask()


def decode(data: bytes, channels: int = 3) -> Tensor:
    """Decode an image to uint8 [channels, H, W], 3 channels RGB or 1 channel grey; raise BadImage with the reason.

    More than three channels become float32 in [0, 1] instead, so that 16 bits are kept. In memory the channels come
    last, as decoders write them. docs/images.md says how each mode becomes 8 bits.
    """
    if not data:
        raise BadImage("empty file")
    if channels > COLOURS:
        return channels_first(_guarded(lambda: decode_multichannel(data, channels)))
    pixels = _plain_jpeg(data, channels) if _plain_size(data, channels) else None
    if pixels is None:
        pixels = _guarded(lambda: to_8_bits(_open(data), channels))
    return channels_first(pixels)


def channels_first(pixels: np.ndarray) -> Tensor:
    """[H, W, C], or [H, W] -> a view of it [C, H, W]."""
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)


def dtype_of(channels: int) -> torch.dtype:
    """What decoded images of so many channels are."""
    return torch.uint8 if channels <= COLOURS else torch.float32


def in_unit_range(image: Tensor) -> Tensor:
    """A decoded image [..., C, H, W] as new float32 in [0, 1]."""
    return image.clone() if image.is_floating_point() else image.float() / 255


class LazyImage(NamedTuple):
    """An image of known size that is decoded on demand."""

    height: int
    width: int
    pixels: Callable[[], Tensor]  # as `decode` returns them


def lazy_image(data: bytes, channels: int = 3) -> LazyImage:
    """A LazyImage of encoded bytes; only a plain JPEG is decoded later, anything else is decoded now."""
    size = _plain_size(data, channels)
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
    size = _plain_size(data, channels)
    return EncodedImage(data, *size) if size else as_ppm(decode(data, channels))


def as_ppm(image: Tensor) -> EncodedImage:
    """Encode a uint8 image [C, H, W] as PPM, or as PGM if it is grey."""
    channels, height, width = image.shape
    header = f"P{6 if channels == 3 else 5}\n{width} {height}\n255\n".encode()
    return EncodedImage(header + image.permute(1, 2, 0).numpy().tobytes(), height, width)


def _guarded(decoded: Callable[[], np.ndarray]) -> np.ndarray:
    """Whatever a decoder raises, the image is bad: damaged files reach every line of Pillow's readers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decoded()
        except (BadImage, UserError):
            raise
        except MemoryError:
            raise TooLittleMemory("not enough memory to decode it") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise  # of the machine, such as too many open files
            reason = str(error).partition("\n")[0][:200]
            raise BadImage(f"damaged: {reason or type(error).__name__}") from None


def _open(data: bytes) -> Image.Image:
    """Read only the header, and refuse a picture by its size before it is decoded."""
    try:
        picture = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        raise BadImage(_unidentified(data)) from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS} pixels") from None
    excess = _excess(picture.width, picture.height, data)
    if excess:
        raise BadImage(excess)
    return picture


def _excess(width: int, height: int, data: bytes) -> str:
    """Why a picture of this size is not decoded; "" if it is."""
    pixels = width * height
    if pixels > MAX_PIXELS:
        return f"{width} x {height} pixels, more than {MAX_PIXELS}"
    if pixels > BOMB_PIXELS and pixels > BOMB_RATIO * len(data):
        return f"{width} x {height} pixels in {len(data)} bytes, more than {BOMB_RATIO} per byte: a decompression bomb"
    return ""


def _unidentified(data: bytes) -> str:
    kind = kind_of(data)
    if kind is None:
        return "not an image"
    if kind in PLUGINS:
        return f"{kind}, which needs {PLUGINS[kind].package}"
    samples = _samples(data) if kind == "TIFF" else 1
    if samples > COLOURS:
        return too_many_channels(samples)
    return f"not an image that Pillow can read, though it begins as {kind} does"


def _samples(data: bytes) -> int:
    """The channels of a TIFF, of which Pillow has no mode for most; 1 if its header is damaged."""
    try:
        directory = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return int(directory.get(SAMPLES, 1))
    except Exception:
        return 1


def _plain_size(data: bytes, channels: int) -> tuple[int, int] | None:
    """Height and width of an upright JPEG in colour or grey, which most files are; None for anything else.

    Pillow reads the header only if an orientation may be stored: that takes a tenth of the decoding time.
    """
    if channels > COLOURS:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except Exception:
        return None
    if colours in ("CMYK", "YCCK") or _excess(width, height, data):
        return None
    is_turned = any(mark in data for mark in ORIENTATION_MARKS) and _jpeg_orientation(data) != 1
    return None if is_turned else (height, width)


def _jpeg_orientation(data: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return orientation_of(Image.open(io.BytesIO(data), formats=("JPEG",)))
        except Exception:  # a damaged header, of which simplejpeg makes sense
            return 1


def _plain_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """None if libjpeg fails. Pillow uses it too, but decodes more odd files and reports what is wrong."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB" if channels == 3 else "GRAY")
    except Exception:
        return None
