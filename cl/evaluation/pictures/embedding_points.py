"""`embedding.json`: the points of `embedding.png` with their classes, clusters and file names, and small pictures."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cl.config.data import COLOURS
from cl.data.decoding.decode import in_unit_range
from cl.data.images import ImageSet
from cl.errors import one_line
from cl.evaluation.pictures.tile import white_of

THUMBNAILS = 400  # at most, of points at equal distances in the list
SIDE = 32  # pixels of a thumbnail: 400 photographs of this size are a JPEG of about 140 kB
COLUMNS = 20  # thumbnails in a row of the JPEG
CLUSTERS = 10  # without labels; with labels as many as there are classes
MAX_CLUSTERS = 20


class Points(NamedTuple):
    """The points of a map."""

    finite: Tensor  # [all images] bool; the others have no point
    unit: Tensor  # [N, F] normalised features
    xy: Tensor  # [N, 2]
    targets: Tensor  # [N]
    title: str


def save_points(points: Points, images: ImageSet, classes: Sequence[str], path: Path) -> None:
    """Write the points of a map of `images`, in the order of `images`."""
    index = torch.arange(len(images))[points.finite].tolist()
    chosen = torch.linspace(0, len(index) - 1, min(THUMBNAILS, len(index))).round().long().tolist()
    tiles = [-1] * len(index)
    for number, point in enumerate(chosen):
        tiles[point] = number
    content = {
        "title": points.title,
        "classes": [one_line(name) for name in classes],
        "x": _rounded(points.xy[:, 0]),
        "y": _rounded(points.xy[:, 1]),
        "class": points.targets.tolist(),
        "cluster": clusters(points.unit, len(points.targets[points.targets >= 0].unique())),
        "images": {
            "names": [one_line(images.name(i)) for i in index],
            "tiles": tiles,
            "columns": COLUMNS,
            "side": SIDE,
            "jpeg": thumbnails([images.read(index[point]) for point in chosen]),
        },
    }
    path.write_text(json.dumps(content, separators=(",", ":")))


def _rounded(values: Tensor) -> list[float]:
    """To a thousandth of their range: a pixel."""
    unit = max(float(values.max() - values.min()), 1e-9) / 1000 if len(values) else 1.0
    return [float(f"{round(value / unit) * unit:.4g}") for value in values.tolist()]


def clusters(unit: Tensor, classes: int) -> list[int]:
    """[N, F] -> the k-means cluster of each row, 0 for the largest one; as many as classes, if there are labels."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    count = min(classes or CLUSTERS, MAX_CLUSTERS, len(unit.unique(dim=0)))
    if count < 2:
        return [0] * len(unit)
    with threadpool_limits(1):
        found = KMeans(count, n_init=3, random_state=0).fit_predict(unit.numpy())
    by_size = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return [int(rank) for rank in np.argsort(by_size)[found]]


def thumbnails(images: Sequence[Tensor]) -> str:
    """One JPEG of the central squares of `images` [C, H, W], COLUMNS in a row, in base64."""
    rows = -(-len(images) // COLUMNS) or 1
    sheet = np.zeros((rows * SIDE, COLUMNS * SIDE, 3), np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, COLUMNS)
        sheet[row * SIDE :, column * SIDE :][:SIDE, :SIDE] = _thumbnail(image)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def _thumbnail(image: Tensor) -> np.ndarray[Any, Any]:
    """[C, H, W] -> [SIDE, SIDE, 3] uint8."""
    side = min(image.shape[1:])
    top = (image.shape[1] - side) // 2
    left = (image.shape[2] - side) // 2
    square = in_unit_range(image[None, :, top : top + side, left : left + side])
    mode = "area" if side > SIDE else "nearest-exact"
    tile = F.interpolate(square, SIDE, mode=mode)[0, :COLOURS] / white_of(square[0])
    rgb = tile.clamp(0, 1).expand(COLOURS, -1, -1)
    return (rgb.permute(1, 2, 0) * 255).round().byte().numpy()
