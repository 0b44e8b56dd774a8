"""scikit-learn's handwritten digits: the data set that needs no download."""

import numpy as np
import torch

from cl.config.data import COLOURS, DataConfig
from cl.data.decoding.decode import in_unit_range
from cl.data.images import ArraySet, Splits
from cl.data.views.spec import Norm

MEAN = 0.3054  # of the training images' pixels
STD = 0.3760


def digits(config: DataConfig, norm: Norm | None = None) -> Splits:
    """1797 images of 8x8 pixels, a fifth of each class held out for validation (seed 0)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    images = grey.expand(-1, config.in_channels, -1, -1)
    if config.in_channels > COLOURS:
        images = in_unit_range(images)
    targets = labels.astype(np.int64)
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    return Splits(
        train=ArraySet(images[train], targets[train]),
        val=ArraySet(images[val], targets[val]),
        classes=tuple("0123456789"),
        norm=norm or ((MEAN,) * config.in_channels, (STD,) * config.in_channels),
    )
