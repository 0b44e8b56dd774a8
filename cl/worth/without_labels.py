"""What can be said without labels: whether the other view of an image is found, and the rank of the features."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from cl.data.images import ImageSet, stratified
from cl.data.views.spec import pretrain_views
from cl.errors import one_line
from cl.evaluation.neighbours import nearest_neighbours
from cl.evaluation.online.health import health
from cl.evaluation.pictures.drawing import draw_for_each, label, with_own_settings
from cl.evaluation.pictures.neighbours_picture import central_square
from cl.evaluation.pictures.tile import show_tile, white_of
from cl.worth.features import Extractor
from cl.worth.images import Images
from cl.worth.networks import Row, pairs_of
from cl.worth.sentence import collapse_of
from cl.worth.statistics import Answers, accuracy, over_images, paired
from cl.worth.table import markdown, percent, points, table

PICTURE = "worth_neighbours.png"
RETRIEVAL = "other view found"
RANK = "effective rank"
IMAGES = 2000  # among which the other view is searched, at most
QUERIES = 5
NEIGHBOURS = 4
NO_ACCURACY = (
    "Accuracy cannot be said without labels. To find the other view of an image is what a network is trained for; it\n"
    "does not show that its features are useful."
)


def compare_without_labels(rows: Sequence[Row], images: Images, extractor: Extractor) -> str:
    """What to print about the rows without labels. Draws worth_neighbours.png in the folder of each run."""
    runs = [row.run for row in rows if row.run is not None]
    shown = stratified(images.test, IMAGES)
    views = (pretrain_views(runs[0].config.views)[0][:2],)  # of the first run, for all
    features = {row.name: extractor.training_views(row, shown, views) for row in rows}
    answers = {name: other_view_found(each) for name, each in features.items()}
    differences = {
        f"{name} - {before}": {RETRIEVAL: over_images(paired(answers[before], answers[name]))}
        for name, before in pairs_of(rows)
    }
    cells = {
        name: {RETRIEVAL: percent(accuracy(answers[name])), RANK: f"{effective_rank(each):.1f} of {each.shape[2]}"}
        for name, each in features.items()
    }
    sides = {row.name: extractor.evaluation_views(row, shown, mirrors=False)[:, 0] for row in rows}
    collapses = [(row.name, collapse_of(row.run, sides[row.name])) for row in rows if row.run is not None]
    texts = [
        f"\n{len(shown)} images: {images.source}; two training views of each; 95 % intervals",
        markdown("without labels", cells),
        table("difference in points", differences, points),
        *(one_line(f"{name}: {collapse}.") for name, collapse in collapses if collapse),
        NO_ACCURACY,
        draw_for_each([run.folder / PICTURE for run in runs], partial(save_side_by_side, shown, sides)),
    ]
    return "\n\n".join(text for text in texts if text)


def other_view_found(features: Tensor) -> Answers:
    """Whether the first view of each image is most similar to its own second one, of all [N, 2, F] -> [1, N]."""
    first, second = F.normalize(features.float(), dim=2).unbind(1)
    return np.asarray((first @ second.T).argmax(dim=1) == np.arange(len(features)))[None]


def effective_rank(features: Tensor) -> float:
    """RankMe of the first views of [N, 2, F]."""
    return health(features[:, 0], features[:, 1]).rank


@with_own_settings
def save_side_by_side(images: ImageSet, features: Mapping[str, Tensor], path: Path) -> None:
    """Draw a few images, and beside each the neighbours that the features [N, F] of each network find."""
    from matplotlib.figure import Figure

    queries = np.linspace(0, len(images) - 1, min(QUERIES, len(images))).round().astype(int)
    nearest = {name: nearest_neighbours(each, NEIGHBOURS)[1][queries] for name, each in features.items()}
    blocks = list(nearest.values())
    width = blocks[0].shape[1]
    columns = 1 + (width + 1) * len(blocks)  # an empty one before each network
    figure = Figure(figsize=(0.85 * columns, 0.4 + 0.95 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for row, axes in enumerate(grid):
        _show(axes[0], images, int(queries[row]))
        for number, block in enumerate(blocks):
            first = 1 + (width + 1) * number
            axes[first].set_axis_off()
            for column in range(width):
                _show(axes[first + 1 + column], images, int(block[row, column]))
    grid[0][0].set_title("image", fontsize=9)
    for number, name in enumerate(nearest):
        middle = grid[0][2 + (width + 1) * number + (width - 1) // 2]
        middle.set_title(label(name), fontsize=9, parse_math=False)
    figure.savefig(path, dpi=80)


def _show(axis: Any, images: ImageSet, index: int) -> None:
    tile = central_square(images.read(index))
    show_tile(tile, axis, white_of(tile))
