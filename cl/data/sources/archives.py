"""CIFAR-10, CIFAR-100 and STL-10 as torchvision's archives: found, or downloaded, and checked by checksum."""

import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

from cl.config.data import DataConfig
from cl.data.images import ArraySet, Splits, measure_norm
from cl.data.views.spec import Norm
from cl.errors import UserError

FOLDER = "datasets"  # where archives go without --data_folder


def archive(config: DataConfig, norm: Norm | None) -> Splits:
    """The data set as its authors split it; STL-10's unlabelled images are training images with target -1."""
    root = Path(config.data_folder or FOLDER)
    if config.dataset == "stl10":
        sets = [_open(datasets.STL10, root, split=split) for split in ("train+unlabeled", "test")]
        pairs = [(torch.from_numpy(each.data), each.labels) for each in sets]
    else:
        kind = datasets.CIFAR10 if config.dataset == "cifar10" else datasets.CIFAR100
        sets = [_open(kind, root, train=train) for train in (True, False)]
        pairs = [(torch.from_numpy(each.data).permute(0, 3, 1, 2), each.targets) for each in sets]
    if config.in_channels == 1:
        pairs = [(F.rgb_to_grayscale(images), targets) for images, targets in pairs]
    train, val = (ArraySet(images.contiguous(), np.asarray(targets).astype(np.int64)) for images, targets in pairs)
    return Splits(train, val, tuple(sets[0].classes), norm or measure_norm(train))


def _open(kind: Any, root: Path, **split: Any) -> Any:
    """torchvision's own data set; UserError says which file to put where if it can be neither found nor downloaded."""
    made = not root.exists()
    try:
        return kind(root, download=True, **split)
    except (URLError, OSError, RuntimeError) as error:
        if made:
            shutil.rmtree(root, ignore_errors=True)
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--data_folder: {kind.filename} is neither in {root} nor could it be downloaded ({reason}); "
            f"put {kind.url} there, or name class folders with --train_dir and --val_dir"
        ) from None
