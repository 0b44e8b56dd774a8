from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag

DATASETS = ("digits", "cifar10", "cifar100", "stl10", "imagenet100", "imagenet", "custom")


@dataclass(frozen=True)
class DataConfig(Config):
    """Which images, and how they reach the device."""

    dataset: Annotated[str, Flag("data set", choices=DATASETS, positional=True, coming=DATASETS[1:])] = "digits"
    data_folder: Annotated[str | None, Flag("folder that --train_dir and --val_dir are relative to")] = None
    train_dir: Annotated[str | None, Flag("folder of training images, one folder a class")] = None
    val_dir: Annotated[str | None, Flag("folder of validation images, one folder a class")] = None
    batch_size: Annotated[int, Flag("images per process and step", low=2)] = 256
    num_workers: Annotated[
        int, Flag("loader processes per training process; 0 loads in the training process", low=0)
    ] = 4
    loader: Annotated[
        str,
        Flag("data path", choices=("fast", "torchvision", "dali"), consts={"--dali": "dali"}, coming=("fast", "dali")),
    ] = "torchvision"
    dali_device: Annotated[str | None, Flag("where DALI decodes", choices=("gpu", "cpu"), coming=True)] = None
    cache: Annotated[str, Flag("decoded copy on disk", choices=("none", "jpeg256", "raw256"), coming=True)] = "none"
    last_batch_fill: Annotated[bool, Flag("see every image in every epoch, filling up the last batch")] = False
    bad_images: Annotated[
        str, Flag("what to do about files that do not decode", choices=("skip", "error"), coming=("error",))
    ] = "skip"
