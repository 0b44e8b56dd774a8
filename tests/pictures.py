"""Small image files for the tests: plain ones, and the kinds that break runs."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

BAD = {  # name -> part of the reason
    "truncated.jpg": "damaged",
    "truncated.png": "damaged",
    "empty.jpg": "empty file",
    "page.jpg": "not an image",
    "bomb.png": "more than",
    "dangling.jpg": "cannot be read: No such file",
}
GOOD = (
    "cmyk.jpg", "grey.jpg", "sixteen_bit.png", "palette.png", "alpha.png", "upright.jpg", "turned.jpg", "line.png",
    "moving.gif", os.fsdecode(b"not_utf8_\xff.png"),
)  # fmt: skip


def plain(seed: int, height: int = 40, width: int = 48) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_classes(root: Path, images: dict[str, int]) -> Path:
    """Class folders with the given number of images in each."""
    for number, (name, count) in enumerate(images.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            plain(1000 * number + i).save(root / name / f"{i:03d}.jpg")
    return root


def sixteen_bit() -> np.ndarray:
    return np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)


def write_odd(folder: Path) -> None:
    """Sixteen odd files: six unusable images and ten usable ones."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = plain(7)
    for name in ("truncated.jpg", "truncated.png"):
        picture.save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html><body>404 Not Found</body></html>")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("L").save(folder / "grey.jpg")
    Image.fromarray(sixteen_bit()).save(folder / "sixteen_bit.png")
    palette = picture.quantize(16)
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(folder / "palette.png")
    transparent = picture.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 24, axis=1).repeat(40, axis=0)))
    transparent.save(folder / "alpha.png")
    picture.save(folder / "upright.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, exif=exif)
    plain(8, 1, 300).save(folder / "line.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[plain(9)])
    picture.save(folder / GOOD[-1])
    (folder / "Thumbs.db").write_bytes(b"not an image")
