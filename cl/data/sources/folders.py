"""Image folders: listed, checked once, and indexed."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from cl.config.data import DataConfig
from cl.data.images import FileSet
from cl.data.sources.index import Index, mapped
from cl.data.sources.listing import Listing, list_images
from cl.data.sources.manifest import bad_files, check_file
from cl.data.sources.names import FileNames
from cl.data.sources.places import Place, full_path


def open_folder(path: str, argument: str, config: DataConfig) -> "Folder":
    """Class folders, or a flat folder with or without a file of labels."""
    labels = full_path(config, config.labels) if config.labels else None
    return Folder(list_images(Path(path), argument, labels, config.in_channels), config.in_channels)


class Folder(Place):
    """The files of a listing."""

    def __init__(self, listing: Listing, channels: int) -> None:
        self.root: Path = listing.root
        self.left_out = listing.left_out
        self.counts = Counter(listing.classes)
        self._listing = listing
        self._channels = channels

    def path(self, row: int) -> Path:
        return self.root / self._listing.files[row]

    def bad(self, trusted: bool) -> dict[int, str]:
        """The files that are not usable images, and the reason; of trusted ones those that are no files."""
        files = self._listing.files
        stamps = self._listing.stamps
        if trusted:
            missing = [name for name, size in zip(files, stamps[::2], strict=True) if size < 0]
            checks = {name: check_file(self.root / name, self._channels) for name in missing}
            reasons = {name: check.reason for name, check in checks.items() if check.reason}
        else:
            reasons = bad_files(self.root, files, self._channels, stamps)
        return {row: reasons[name] for row, name in enumerate(files) if name in reasons} if reasons else {}

    def without(self, rows: Collection[int]) -> "Folder":
        if not rows:
            return self
        listing = self._listing
        left = {*rows}
        good = [row not in left for row in range(len(listing.files))]
        files = tuple(compress(listing.files, good))
        classes = tuple(compress(listing.classes, good))
        return Folder(replace(listing, files=files, classes=classes), self._channels)

    def images(self, label_of: Mapping[str | None, int]) -> FileSet:
        """With labels of the smallest type that holds all."""
        kind = np.min_scalar_type(-max(1, len(label_of) - 1))
        targets = np.array([label_of[name] for name in self._listing.classes], kind)
        index = mapped(self.root, Index(FileNames.of(self._listing.files), targets))
        return FileSet(self.root, index.names, index.targets, self._channels, index.folder)
