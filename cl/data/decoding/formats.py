"""Which image formats are read: all that Pillow reads here, by itself or with an installed plugin."""

import importlib
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from cl.config.data import COLOURS

# Pillow recognises the others but cannot decode them; for EPS it would start Ghostscript on a stranger's file.
EXCLUDED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


class Plugin(NamedTuple):
    """A package that adds a format to Pillow."""

    package: str
    module: str
    register: str | None  # function that registers the format; None if importing the module does


PLUGINS: Mapping[str, Plugin] = {
    "HEIC": Plugin("pillow-heif", "pillow_heif", "register_heif_opener"),
    "JPEG XL": Plugin("pillow-jxl-plugin", "pillow_jxl", None),
}

# Formats by their first bytes: (offset, bytes). Raw photographs are TIFF files whose first image is a thumbnail.
SIGNATURES: Mapping[str, tuple[tuple[int, bytes], ...]] = {
    "JPEG": ((0, b"\xff\xd8\xff"),),
    "PNG": ((0, b"\x89PNG\r\n\x1a\n"),),
    "GIF": ((0, b"GIF87a"), (0, b"GIF89a")),
    "BMP": tuple((14, bytes([size, 0, 0, 0])) for size in (12, 40, 108, 124)),
    "WebP": ((8, b"WEBP"),),
    "TIFF": ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
    "JPEG 2000": ((0, b"\0\0\0\x0cjP  \r\n\x87\n"), (0, b"\xff\x4f\xff\x51")),
    "AVIF": ((4, b"ftypavif"), (4, b"ftypavis")),
    "HEIC": tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    "JPEG XL": ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n")),
    "Photoshop": ((0, b"8BPS"),),
    "DICOM": ((128, b"DICM"),),
    "OpenEXR": ((0, b"v/1\x01"),),
    "Radiance": ((0, b"#?RADIANCE"),),
    "raw photograph": ((0, b"FUJIFILMCCD-RAW"), (0, b"IIU\0"), (0, b"IIRO"), (4, b"ftypcrx")),
}
RAW_SUFFIXES = frozenset({".3fr", ".arw", ".cr2", ".dng", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".srw"})
HEAD = 144  # bytes that `kind_of` needs
NPY = b"\x93NUMPY"  # how a file of one NumPy array begins


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    from PIL import Image  # late: a wrong flag is refused without it

    Image.init()
    for plugin in PLUGINS.values():
        _register(plugin)
    return tuple(name for name in Image.OPEN if name not in EXCLUDED)


def _register(plugin: Plugin) -> None:
    try:
        module = importlib.import_module(plugin.module)
    except ImportError:
        return
    if plugin.register is not None:
        register: Callable[[], object] = vars(module)[plugin.register]
        register()


@cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case and with the dot, of the files that are looked at."""
    formats = {*readable_formats(), "MPO"}  # MPO: two JPEGs, of which Pillow's JPEG reader opens the first
    from PIL import Image

    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


@cache
def image_suffixes(channels: int) -> frozenset[str]:
    """The same for images of so many channels: beyond three, Pillow has no mode, and arrays are images too."""
    return readable_suffixes() | ({".npy"} if channels > COLOURS else set())


def is_image_name(name: str, channels: int) -> bool:
    """Whether a file is looked at, by its suffix."""
    return suffix_of(name) in image_suffixes(channels)


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def kind_of(head: bytes, name: str = "") -> str | None:
    """The format that the first bytes of a file are typical of, None for anything but an image."""
    for kind, signatures in SIGNATURES.items():
        if any(head.startswith(magic, offset) for offset, magic in signatures):
            return "raw photograph" if kind == "TIFF" and suffix_of(name) in RAW_SUFFIXES else kind
    return None
