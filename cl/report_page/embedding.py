"""embedding.json of a run, checked: it may be half written, or by someone else."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl.report_page.own_files import own_text

FILE = "embedding.json"
MAX_POINTS = 2000  # that cl draws
MAX_JPEG = 400_000  # characters
ALL_MAPS = 4_500_000  # characters of all maps on a page; beyond, a run has its embedding.png only


def read_embedding(folder: Path) -> dict[str, Any] | None:
    """The points of a run's map, None if there are none."""
    try:
        content = json.loads(own_text(folder, FILE))
        x = _numbers(content["x"])
        y = _numbers(content["y"])
        images = content["images"]
        checked: dict[str, Any] = {
            "title": str(content["title"]),
            "classes": [str(name) for name in content["classes"]],
            "x": x,
            "y": y,
            "class": _integers(content["class"], len(content["classes"])),
            "cluster": _integers(content["cluster"], MAX_POINTS),
            "images": {
                "names": [str(name) for name in images["names"]],
                "tiles": _integers(images["tiles"], MAX_POINTS),
                "columns": int(images["columns"]),
                "side": int(images["side"]),
                "jpeg": _jpeg(images["jpeg"]),
            },
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    columns = (y, checked["class"], checked["cluster"], checked["images"]["names"], checked["images"]["tiles"])
    fits = all(len(column) == len(x) for column in columns) and 0 < len(x) <= MAX_POINTS
    return checked if fits and checked["images"]["columns"] > 0 else None


def _numbers(values: Sequence[Any]) -> list[float]:
    return [round(float(value), 4) for value in values if abs(value) < 1e9]


def _integers(values: Sequence[Any], below: int) -> list[int]:
    """-1 for none."""
    if not all(isinstance(value, int) and -1 <= value < max(below, 1) for value in values):
        raise ValueError("no column of numbers of classes, clusters or tiles")
    return [int(value) for value in values]


def _jpeg(text: str) -> str:
    content = base64.b64decode(text, validate=True)
    if len(text) > MAX_JPEG or not content.startswith(b"\xff\xd8"):
        raise ValueError("no small JPEG")
    return text


def shared_images(embeddings: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Runs on the same images share their names and pictures: the embeddings with a key, and the images by key."""
    images: dict[str, Any] = {}
    keyed = []
    size = 0
    for embedding in embeddings:
        content = json.dumps(embedding["images"])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        points = embedding | {"images": digest}
        size += len(json.dumps(points)) + (len(content) if digest not in images else 0)
        if size > ALL_MAPS:
            break
        images[digest] = embedding["images"]
        keyed.append(points)
    return keyed, images
