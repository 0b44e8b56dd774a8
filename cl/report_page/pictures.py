"""Pictures of a run as data: URLs, small enough that a page with many runs can be sent."""

import base64
import io
from functools import lru_cache
from pathlib import Path

from cl.report_page.own_files import read_own

CAPTIONS = {  # curves.png is left out: the page draws the curves itself
    "views.png": "Images of the first batch and their views",
    "embedding.png": "Map of the features: similar images lie close together",
    "neighbours.png": "Images and their nearest neighbours",
    "linear_grid.png": "Accuracy of each pair of a grid",
    "worth.png": "The run compared with what one had before",
}
TRIED = ((1000, 85), (1000, 65), (800, 55), (640, 45), (480, 30))  # width in pixels and quality of a JPEG, in order


def pictures_of(folder: Path, limit: int) -> dict[str, str]:
    """File name -> data: URL of every picture in a run folder, each of at most `limit` characters."""
    found = {}
    for name in CAPTIONS:
        try:
            found[name] = as_url(read_own(folder, name), limit)
        except Exception:  # of the file, and of Pillow about a picture that is half written or none
            continue
    return {name: url for name, url in found.items() if url}


@lru_cache(maxsize=256)  # a page that is served is made again whenever an epoch ends
def as_url(png: bytes, limit: int) -> str:
    """A PNG as it is if it is small enough, else as JPEG; "" if even that is too large."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        image.load()
        if len(url := _url("png", png)) <= limit:
            return url
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    for width, quality in TRIED:
        rgb.thumbnail((width, 4 * width))
        file = io.BytesIO()
        rgb.save(file, "JPEG", quality=quality)
        if len(url := _url("jpeg", file.getvalue())) <= limit:
            return url
    return ""


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
