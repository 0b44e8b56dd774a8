"""What --train_dir and --val_dir name: a folder, or PREFIX/REST for what a prefix of PLACES stands for."""

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cl.config.data import DataConfig

if TYPE_CHECKING:  # a wrong folder is reported before torch is imported
    from cl.data.images import EncodedSet

FOLDER = ""
PLACES: Mapping[str, str] = {  # by prefix, the function that opens a place; its module is imported when a flag names it
    FOLDER: "cl.data.sources.folders:open_folder",
    "tar": "cl.data.sources.packed.shards:open_shards",
    "hf": "cl.data.sources.packed.tables:open_table",
}
SCHEMES = ("s3://", "gs://", "az://", "http://", "https://")
Name = Path | str  # of a place or an image, for messages; str for URLs, since a Path would drop a slash


class Place(ABC):
    """The images of one flag, in order, before they are checked and labelled."""

    prefix: ClassVar[str] = ""  # of a path in the flags, with the slash
    root: Name
    counts: Mapping[str | None, int]  # images by class; None: without a label
    left_out: tuple[str, ...]  # what was not taken, and why

    @property
    def typed(self) -> str:
        """What a flag calls it."""
        return f"{self.prefix}{self.root}"

    @abstractmethod
    def path(self, row: int) -> Name:
        """What names an image to a user."""

    @abstractmethod
    def bad(self, trusted: bool) -> dict[int, str]:
        """Rows of unusable images, ascending, and the reason; of trusted ones those that nobody has to read to know."""

    def damaged(self) -> Iterator[str]:
        """What is not as its checksum says, for `python -m cl.data.check`."""
        yield from ()

    @abstractmethod
    def without(self, rows: Collection[int]) -> "Place":
        """The other images."""

    @abstractmethod
    def images(self, label_of: Mapping[str | None, int]) -> "EncodedSet":
        """The images, labelled by their classes."""


OpenPlace = Callable[[str, str, DataConfig], Place]  # path without its prefix, name of the argument, other flags


def is_remote(path: str) -> bool:
    return path.startswith(SCHEMES)


def named(path: str) -> Name:
    return path if is_remote(path) else Path(path)


def absolute(name: Name) -> str:
    """The same from every working directory: what is remembered of a place or a file is found by it."""
    return str(name) if is_remote(str(name)) else os.path.realpath(name)


def full_path(config: DataConfig, path: str) -> Path:
    """A path from the flags, below --data_folder if that is given."""
    return Path(config.data_folder or "") / path


def prefix_of(config: DataConfig, path: str) -> str:
    """The prefix of PLACES that a path from the flags begins with; FOLDER also for a folder of such a name."""
    prefix, slash, _ = path.partition("/")
    return prefix if slash and prefix in PLACES and not full_path(config, path).is_dir() else FOLDER


def open_place(path: str, argument: str, config: DataConfig) -> Place:
    """What a path from the flags names; UserError if there are no images, or not as expected."""
    prefix = prefix_of(config, path)
    module, name = PLACES[prefix].split(":")
    opened: OpenPlace = vars(importlib.import_module(module))[name]
    rest = path.removeprefix(f"{prefix}/") if prefix else path
    where = rest if "://" in rest else os.path.join(config.data_folder or "", rest)
    return opened(where, argument, config)
