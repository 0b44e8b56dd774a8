"""What `--shuffle shards` costs in randomness: how like neighbours are, by the number of shards that are mixed.

python bench/shuffle.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from cl.data.order.grouped import ShardOrder, permuted_groups
from cl.data.order.permutation import permuted

IMAGES = 1_280_000
CLASSES = 1000
SHARDS = 256
BATCH = 256
EPOCHS = 4


def main() -> None:
    ends = np.arange(1, SHARDS + 1) * (IMAGES // SHARDS)
    print(f"{IMAGES:,} images of {CLASSES} classes, class by class in {SHARDS} shards; {EPOCHS} epochs")
    print(
        f"| shards mixed | correlation of neighbours | pairs of one class in a batch of {BATCH} | classes in a batch |"
    )
    print("|---|---|---|---|")
    for window in (1, 4, 16, 64, 256):
        print_row(str(window), [permuted_groups(np.arange(IMAGES), ShardOrder(ends, window), e) for e in range(EPOCHS)])
    print_row("--shuffle images", [permuted(np.arange(IMAGES), IMAGES, epoch) for epoch in range(EPOCHS)])


def print_row(name: str, orders: list[np.ndarray]) -> None:
    label = np.concatenate(orders) // (IMAGES // CLASSES)
    batches = np.sort(label.reshape(-1, BATCH), axis=1)
    same = np.mean([(np.bincount(batch) * (np.bincount(batch) - 1)).sum() for batch in batches]) / (BATCH * (BATCH - 1))
    different = (np.diff(batches, axis=1) > 0).sum(axis=1).mean() + 1
    print(f"| {name} | {np.corrcoef(label[:-1], label[1:])[0, 1]:.3f} | {100 * same:.2f} % | {different:.0f} |")


if __name__ == "__main__":
    main()
