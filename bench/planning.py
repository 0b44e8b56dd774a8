"""What the host does for the views of a batch of 512 before the kernels: drawing, planning, packing for one copy.

python bench/planning.py
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from cl.config.views import PretrainViewsConfig
from cl.data.executors.packing import Packed, pack
from cl.data.kernels.numbers import Pairs, colour_numbers, crop_numbers, pairs_of
from cl.data.views.draws import Ints
from cl.data.views.rows import RandomViews, Rows
from cl.data.views.spec import pretrain_views

BATCH = 512
ROUNDS = 30
INDEX = np.arange(BATCH)


def main() -> None:
    print("| images and views | planning | packing |\n|---|---|---|")
    few = PretrainViewsConfig(crop_size=32)
    many = PretrainViewsConfig(multicrop=True)
    for name, views, side in (("512 x 2, 32 pixels", few, 32), ("512 x (2 + 6), 224 and 96 pixels", many, 256)):
        planner = RandomViews(pretrain_views(views), seed=0)
        sizes = np.tile(np.array([side, side]), (BATCH, 1))
        planned = partial(planner.rows, 0, INDEX, sizes)
        packed = partial(pack_numbers, planned(), sizes, pairs_of(planner, sizes))
        print(f"| {name} | {milliseconds(planned):.2f} ms | {milliseconds(packed):.2f} ms |")


def pack_numbers(resolutions: tuple[Rows, ...], sizes: Ints, pairs: Pairs) -> Packed:
    begins = 3 * sizes.prod(axis=1).cumsum()
    crops = [array for rows in resolutions for array in crop_numbers(rows.crops, begins, sizes, pairs)]
    colours = [array for rows in resolutions for array in colour_numbers(rows)]
    return pack([INDEX, INDEX, *crops, *colours])


def milliseconds(work: Callable[[], object]) -> float:
    """The median of the CPU time of a call."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
