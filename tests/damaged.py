"""Damage image files at random and decode them: python -m tests.damaged COUNT [--seed S].

Prints one JSON line: how many were images and how many were refused, the slowest decode and the growth of memory.
Ends with a traceback of the decoder if one file takes longer than LIMIT seconds.
"""

import argparse
import faulthandler
import io
import json
import resource
import time
import zlib

import numpy as np
from PIL import Image

from cl.data.decoding.decode import decode
from cl.data.decoding.modes import BadImage
from tests.pictures import plain

LIMIT = 30  # seconds
Options = dict[str, object]


def sources(height: int, width: int) -> dict[str, list[bytes]]:
    """Sound files of seven formats, in the variants that have readers of their own."""
    colour = plain(1, height, width)
    grey = colour.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    frames: Options = {"save_all": True, "append_images": [plain(2, height, width)]}
    compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    return {
        "JPEG": [
            *(_encode(colour, "JPEG", exif=exif, dpi=(72, 72)), _encode(colour, "JPEG", progressive=True)),
            *(_encode(colour.convert("CMYK"), "JPEG"), _encode(grey, "JPEG")),
        ],
        "PNG": [_encode(picture, "PNG") for picture in (colour, grey, colour.quantize(16), sixteen)]
        + [_encode(colour.convert("RGBA"), "PNG", exif=exif)],
        "GIF": [_encode(colour, "GIF"), _encode(colour, "GIF", **frames)],
        "BMP": [_encode(picture, "BMP") for picture in (colour, grey, colour.convert("RGBA"), colour.convert("1"))],
        "WEBP": [
            *(_encode(colour, "WEBP"), _encode(colour, "WEBP", lossless=True)),
            *(_encode(colour.convert("RGBA"), "WEBP", exif=exif), _encode(colour, "WEBP", **frames)),
        ],
        "TIFF": [_encode(colour, "TIFF", compression=kind) for kind in compressions]
        + [_encode(picture, "TIFF") for picture in (sixteen, floats, colour.convert("LAB"), colour.convert("1"))]
        + [_encode(colour.convert("1"), "TIFF", compression="group4"), _encode(colour, "TIFF", **frames)],
        "PPM": [_encode(picture, "PPM") for picture in (colour, grey, sixteen, floats, colour.convert("1"))],
    }


def _encode(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, cut out, repeated or set to extremes, more often near the start, where headers are."""
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        end = len(data) if random.random() < 0.5 else min(len(data), 100)
        start = int(random.integers(0, max(1, end)))
        length = int(random.choice((1, 1, 2, 4, 4, 8, 40, 400)))
        part = data[start : start + length]
        match int(random.integers(0, 6)):
            case 0:
                data[start : start + length] = random.integers(0, 256, len(part), np.uint8).tobytes()
            case 1:
                data[start : start + length] = b"\xff" * len(part)
            case 2:
                data[start : start + length] = bytes(len(part))
            case 3:
                del data[start : start + length]
            case 4:
                data[start:start] = part
            case _:
                del data[max(1, start) :]
    return bytes(data)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose checksums fit its damaged chunks, so that the damage reaches the decoder."""
    data = bytearray(content)
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(40, 48), help="height and width in pixels")
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    files = sources(*args.size)
    for content in (variant for variants in files.values() for variant in variants):
        decode(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = dict.fromkeys(files, 0)
    reasons = set()
    slowest = 0.0
    for number in range(args.count):
        name = list(files)[number % len(files)]
        content = damage(files[name][int(random.integers(len(files[name])))], random)
        if name == "PNG" and random.random() < 0.7:
            content = with_checksums(content)
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        start = time.perf_counter()
        try:
            image = decode(content, channels=int(random.choice((1, 3))))
            assert image.ndim == 3
            images[name] += 1
        except BadImage as bad:
            reasons.add(str(bad))
        slowest = max(slowest, time.perf_counter() - start)
    faulthandler.cancel_dump_traceback_later()
    assert all(reason and "\n" not in reason for reason in reasons)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"images": images, "slowest_s": round(slowest, 2), "growth_mib": round(growth)}))


if __name__ == "__main__":
    main()
