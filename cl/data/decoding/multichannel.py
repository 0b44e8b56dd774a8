"""Images of more than three channels, TIFF and .npy files, as floats: 8 and 16 bits are kept to the last one.

Pillow has no mode for them. tifffile is the reader that microscopy and remote sensing use; it decodes in NumPy, and
with imagecodecs also LZW, JPEG and the other compressions.
"""

import io
import logging
import math
from typing import Any

import numpy as np

from cl.data.decoding.formats import NPY, kind_of
from cl.data.decoding.modes import ORIENTATION, BadImage
from cl.errors import UserError

MAX_VALUES = 2**27  # of all channels together: 512 MiB as floats
WHITE = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}
TURNS = {  # EXIF orientation -> transpose, then flip vertically, then flip horizontally
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def decode_multichannel(data: bytes, channels: int) -> np.ndarray:
    """A TIFF or .npy file of `channels` channels -> float32 [H, W, channels] in [0, 1], upright; or BadImage."""
    if data.startswith(NPY):
        return _read_array(data, channels)
    kind = kind_of(data)
    if kind != "TIFF":
        raise BadImage(f"{kind or 'not an image'}, expected a TIFF or .npy file with {channels} channels")
    return _read_tiff(data, channels)


def _read_array(data: bytes, channels: int) -> np.ndarray:
    """A view of `data` is scaled: a header that lies about the shape allocates nothing."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    axis = _channel_axis(shape, "", channels)
    white = _white(dtype)
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return _scaled(values.reshape(shape, order="F" if is_fortran else "C"), axis, white)


def _read_tiff(data: bytes, channels: int) -> np.ndarray:
    tifffile = _tifffile()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        whole = page if page.samplesperpixel == channels else file.series[0]  # one image, or a page for each channel
        axis = _channel_axis(whole.shape, whole.axes, channels)
        white = _white(whole.dtype, page.bitspersample)
        image = _scaled(whole.asarray(maxworkers=1), axis, white)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            image = 1 - image
        return _upright(image, page.tags.valueof(ORIENTATION, 1))


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError:
        raise UserError(
            "--in_channels: got TIFF files of more than three channels, which need tifffile; expected "
            "pip install tifffile imagecodecs, or .npy files"
        ) from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, by us
    return tifffile


def _channel_axis(shape: tuple[int, ...], axes: str, channels: int) -> int:
    """The axis of the channels: the one of a TIFF's samples, else the last or the first, whichever has their number."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise BadImage(f"an array of shape {_product(shape)}, expected height x width x {channels}")
    if math.prod(shape) > MAX_VALUES:
        raise BadImage(f"{_product(shape)} values, more than {MAX_VALUES}")
    if len(shape) == 2:
        raise BadImage(f"1 channel, expected {channels} as --in_channels says")
    fitting = [axis for axis in (2, 0) if shape[axis] == channels]
    axis = axes.index("S") if "S" in axes else next(iter(fitting), int(np.argmin(shape)))
    if shape[axis] != channels:
        raise BadImage(f"{shape[axis]} channels, expected {channels} as --in_channels says")
    return axis


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _white(dtype: np.dtype | None, bits: int | None = None) -> int:
    """The value of white in pixels of this type; `bits` is how many a TIFF's integers have, such as 12 of 16."""
    name = str(dtype.newbyteorder("=")) if dtype is not None else "unknown"
    if name not in WHITE:
        raise BadImage(f"{name} pixels, whose range is not known; expected uint8, uint16, or floats from 0 to 1")
    return 2**bits - 1 if bits and name.startswith("uint") else WHITE[name]


def _scaled(pixels: np.ndarray, axis: int, white: int) -> np.ndarray:
    """float32 [H, W, C] in [0, 1]."""
    low = float(pixels.min())
    high = float(pixels.max())
    if not (low >= 0 and high <= white):
        raise BadImage(f"pixels from {low:g} to {high:g}, expected 0 to {white}")
    return np.divide(np.moveaxis(pixels, axis, -1), np.float32(white), dtype=np.float32, order="C", casting="same_kind")


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation not in TURNS:
        return image
    transpose, vertical, horizontal = TURNS[orientation]
    turned = image.transpose(1, 0, 2) if transpose else image
    return np.ascontiguousarray(turned[:: -1 if vertical else 1, :: -1 if horizontal else 1])
