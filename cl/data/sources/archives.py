"""CIFAR-10, CIFAR-100 and STL-10 from torchvision's archives: found or downloaded, verified by checksum."""

import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

from cl.config.data import DataConfig
from cl.data.images import ArraySet, Splits
from cl.data.views.norm import measure_norm
from cl.data.views.spec import Norm
from cl.errors import UserError

FOLDER = "datasets"  # folder of the archives without --data_folder


def archive(config: DataConfig, norm: Norm | None) -> Splits:
    """The data set as its authors split it; STL-10's unlabelled images are training images with target -1."""
    root = Path(config.data_folder or FOLDER)
    if config.dataset == "stl10":
        sets = [_open(datasets.STL10, root, split=split) for split in ("train+unlabeled", "test")]
        pairs = [(torch.from_numpy(split.data), split.labels) for split in sets]
    else:
        kind = datasets.CIFAR10 if config.dataset == "cifar10" else datasets.CIFAR100
        sets = [_open(kind, root, train=train) for train in (True, False)]
        pairs = [(torch.from_numpy(split.data).permute(0, 3, 1, 2), split.targets) for split in sets]
    if config.in_channels == 1:
        pairs = [(F.rgb_to_grayscale(images), targets) for images, targets in pairs]
    train, val = (ArraySet(images.contiguous(), np.asarray(targets).astype(np.int64)) for images, targets in pairs)
    return Splits(train=train, val=val, classes=tuple(sets[0].classes), norm=norm or measure_norm(train))


def _open(kind: Any, root: Path, **split: Any) -> Any:
    """Open torchvision's data set; if the archive cannot be had, UserError names the file and its folder."""
    is_new = not root.exists()
    try:
        return kind(root, download=True, **split)
    except (URLError, OSError, RuntimeError) as error:
        if is_new:
            shutil.rmtree(root, ignore_errors=True)
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--data_folder: {kind.filename} is not in {root} and could not be downloaded ({reason}); "
            f"put {kind.url} there, or pass class folders with --train_dir and --val_dir"
        ) from None
