"""The data sets by name: what `dataset` on the command line stands for."""

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cl.config.data import DataConfig
from cl.data.draws import Ints
from cl.data.view_spec import Norm


class ImageSet(Protocol):
    """Images by index. `targets` has -1 where there is no label."""

    targets: Ints  # [N]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """The image as uint8 [3, H, W]."""


@dataclass(frozen=True)
class Splits:
    """A data set: training and validation images, class names in label order, and the pixels' mean and std."""

    train: ImageSet
    val: ImageSet
    classes: tuple[str, ...]
    norm: Norm

    def normalized_as(self, norm: Norm) -> "Splits":
        """The same images under another normalisation: a pretrained backbone wants the one it was trained with."""
        return dataclasses.replace(self, norm=norm)


class ArraySet:
    """Images that lie in memory as one array: uint8 [N, 3, H, W]."""

    def __init__(self, images: Tensor, targets: Ints) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]


def digits() -> Splits:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, a fifth of each class held out (seed 0); no download."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    images, targets = grey.expand(-1, 3, -1, -1), labels.astype(np.int64)
    norm = ((0.3054,) * 3, (0.3760,) * 3)
    return Splits(
        ArraySet(images[train], targets[train]), ArraySet(images[val], targets[val]), tuple("0123456789"), norm
    )


def load(config: DataConfig) -> Splits:
    """The data set that the flags name."""
    return {"digits": digits}[config.dataset]()
