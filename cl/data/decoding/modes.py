"""Any picture of Pillow's, upright or not and of any mode -> 8 bits. docs/images.md lists the modes."""

from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin
from PIL.Image import Transpose

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
FORMATS_OF_16_BITS = ("PNG", "TIFF", "PPM", "JPEG2000", None)  # their full range is white; None: made in memory
STRIP = 2**20  # pixels that are converted at a time, so that a large picture is not held three times

# TIFF tags.
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 259, 262, 277, 284, 338, 339
UNCOMPRESSED, WHITE_IS_ZERO, SEPARATE, SIGNED, UNSPECIFIED = 1, 0, 2, 2, 0


class BadImage(ValueError):
    """The file or picture is not a usable image; the text gives the reason."""


def too_many_channels(count: int) -> str:
    return f"{count} channels, of which Pillow reads at most three; expected at most three, or --in_channels {count}"


def orientation_of(picture: Image.Image) -> int:
    """How the picture has to be turned: a key of UPRIGHT, or 1 if it is upright or its EXIF block is damaged."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # struct.error, SyntaxError, ...: the pixels are sound
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def to_8_bits(picture: Image.Image, channels: int) -> np.ndarray:
    """A picture of any mode -> uint8 [H, W, channels], 3 channels RGB or 1 channel grey, upright; or BadImage."""
    scale = _scale_of(picture)
    picture.load()
    orientation = orientation_of(picture)  # late: Pillow itself turns a TIFF when it is loaded
    pixels = np.empty((picture.height, picture.width, channels), np.uint8)
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        grey_or_colour = strip if scale is None else _scaled(strip, scale)
        pixels[top : top + rows] = np.asarray(_opaque(grey_or_colour, channels)).reshape(-1, picture.width, channels)
    if orientation == 1:
        return pixels
    upright = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).transpose(UPRIGHT[orientation])
    return np.array(upright).reshape(upright.height, upright.width, channels)


def _opaque(picture: Image.Image, channels: int) -> Image.Image:
    """RGB, or L for one channel. Transparent pixels become white."""
    if picture.has_transparency_data:
        if picture.mode == "La":
            picture = picture.convert("LA")
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if picture.mode == "LAB":
        picture = picture.convert("RGB")  # from which alone Pillow makes grey
    mode = "RGB" if channels == 3 else "L"
    return picture if picture.mode == mode else picture.convert(mode)


class Scale(NamedTuple):
    """The values of black and white pixels, in modes of more than 8 bits."""

    black: float
    white: float


def _scale_of(picture: Image.Image) -> Scale | None:
    """None for the modes of 8 bits; BadImage where Pillow misreads, or nothing says which value is white."""
    tiles = picture.tile if isinstance(picture, PngImagePlugin.PngImageFile) else []
    if tiles and tiles[0].args in ("L;2", "L;4", "RGB;16B") and "transparency" in picture.info:
        raise BadImage("a transparent colour of 2, 4 or 3 x 16 bits, which Pillow compares with pixels of 8 bits")
    tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(SAMPLES, 1) > 3 and UNSPECIFIED in _numbers(tags.get(EXTRA_SAMPLES, ())):  # Pillow leaves it out
        raise BadImage(too_many_channels(tags[SAMPLES]))
    if SIGNED in _numbers(tags.get(SAMPLE_FORMAT, 1)):
        raise BadImage("signed integer pixels, whose range is not known; expected unsigned ones of 8 or 16 bits")
    is_split = tags.get(PLANES) == SEPARATE and tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED
    if is_split and max(_numbers(tags.get(BITS, 1))) > 8:
        raise BadImage("16-bit channels stored one after the other, which Pillow reads as 8 bits")
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return None
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # which use it for 16 bits
        raise BadImage("32-bit integer pixels, whose range is not known; expected 8 or 16 bits")
    if picture.mode != "F" and picture.format not in FORMATS_OF_16_BITS:
        raise BadImage(f"16-bit pixels of {picture.format}, whose range is not known")
    bits = _numbers(tags.get(BITS, 16))[0]  # 12 in some microscopes' files
    white = 1.0 if picture.mode == "F" else 2.0**bits - 1
    return Scale(white, 0) if WHITE_IS_ZERO in _numbers(tags.get(PHOTOMETRIC, 1)) else Scale(0, white)


def _numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _scaled(strip: Image.Image, scale: Scale) -> Image.Image:
    """Scale and round grey pixels to 8 bits; Pillow would clip them. PNG's transparent value becomes white."""
    values = np.asarray(strip)
    low, high = float(values.min()), float(values.max())
    lowest, highest = sorted(scale)
    if not (low >= lowest and high <= highest):
        raise BadImage(f"pixels from {low:g} to {high:g}, expected {lowest:g} to {highest:g}")
    grey = np.rint((values.astype(np.float32) - scale.black) * (255 / (scale.white - scale.black))).astype(np.uint8)
    grey[values == strip.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)
