"""`tar/GLOB`: images in tar files, read by their position, without unpacking."""

import hashlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cl.config.data import DataConfig
from cl.data.decoding.decode import MAX_BYTES, BrokenFile, decode, patiently
from cl.data.images import EncodedSet, Shared
from cl.data.sources.manifest import Check, bad_rows, checked, manifest_path, map_checks
from cl.data.sources.names import FileNames
from cl.data.sources.packed.block_cache import CacheLimit
from cl.data.sources.packed.checksums import damage
from cl.data.sources.packed.local_files import LocalFiles
from cl.data.sources.packed.members import Compressed
from cl.data.sources.packed.patterns import compressed_shard, matching_shards
from cl.data.sources.packed.remote import RemoteFiles, remote_stamp
from cl.data.sources.packed.shard_index import (
    Scanning,
    Shard,
    ShardIndex,
    UnusableShard,
    indexed,
    open_shard_index,
)
from cl.data.sources.places import Name, Place, absolute, is_remote, named
from cl.data.views.draws import Ints, Labels
from cl.errors import UserError, mentioning
from cl.machine.home import cache_folder


def open_shards(path: str, argument: str, config: DataConfig) -> "Shards":
    """The shards that a glob names, indexed."""
    if config.labels is not None:
        raise UserError(
            f"--labels: got {config.labels} with {argument} tar/{path}, expected labels in the shards, as KEY.cls or "
            "as the field of KEY.json that --label_column names"
        )
    shards = [_stamped(shard, argument) for shard in matching_shards(path, argument)]
    try:
        index = indexed(path, shards, Scanning(config.in_channels, config.label_column))
    except UnusableShard as bad:
        if isinstance(bad.reason, Compressed):
            raise compressed_shard(argument, bad.path) from None
        raise UserError(f"{argument}: got {bad.path}, expected a whole tar of images; {bad.reason}") from None
    return _usable(Shards(path, index, config.in_channels, _limit(config)), argument, config)


def _limit(config: DataConfig) -> CacheLimit | None:
    """Where remote shards are kept, under --remote_cache."""
    if config.remote_cache is None:
        return None
    parent = Path(config.cache_dir) if config.cache_dir is not None else cache_folder()
    if parent is None:
        raise UserError("--cache_dir: not given, and there is no home folder; expected a folder for --remote_cache")
    return CacheLimit(parent / "remote", int(config.remote_cache * 10**9))


def _usable(shards: "Shards", argument: str, config: DataConfig) -> "Shards":
    with mentioning(shards.left_out):
        if not len(shards.index.shard):
            raise UserError(f"{argument}: got {shards.typed}, expected members such as KEY.jpg; there are none")
        if config.label_column is not None and not shards.index.classes:
            raise UserError(
                f"--label_column: got {config.label_column}, expected a field of KEY.json in {shards.typed}; no "
                "image has it"
            )
    return shards


def _stamped(path: str, argument: str) -> Shard:
    try:
        if is_remote(path):
            return Shard(path, *remote_stamp(path))
        status = patiently(Path(path).stat)
    except OSError as error:
        raise UserError(f"{argument}: got {path}, expected a readable shard ({error.strerror or error})") from None
    return Shard(path, status.st_size, status.st_mtime_ns)


class Shards(Place):
    """The images of an index."""

    prefix = "tar/"

    def __init__(self, root: str, index: ShardIndex, channels: int, limit: CacheLimit | None) -> None:
        self.root = named(root)
        self.index = index
        self.counts = dict(index.counts)
        self.left_out = tuple(_notes(root, index))
        self._channels = channels
        self._limit = limit

    def path(self, row: int) -> Name:
        return _path(self.index, row)

    def bad(self, trusted: bool) -> dict[int, str]:
        if trusted:
            return {}
        index = self.index

        def checks(rows: Sequence[int]) -> Iterator[Check]:
            return map_checks(
                partial(check_member, channels=self._channels, limit=self._limit),
                [_member(index, row) for row in rows],
                self.root,
            )

        return bad_rows(manifest_path(self.root, self._channels), self.root, index.names, _stamps(index), checks)

    def damaged(self) -> Iterator[str]:
        paths = [Path(shard.path) for shard in self.index.shards if not is_remote(shard.path)]
        hidden = not sys.stderr.isatty()
        for path in tqdm(paths, "verifying checksums", unit="shard", leave=False, disable=hidden):
            reason = damage(path)
            if reason:
                yield f"{path}: {reason}"

    def without(self, rows: Collection[int]) -> "Shards":
        if not rows:
            return self
        kept = np.setdiff1d(np.arange(len(self.index.shard)), np.fromiter(rows, np.int64))
        codes = self.index.codes[kept]
        counts = np.bincount(codes.astype(np.int64) + 1, minlength=1)
        names = (None, *self.index.classes)
        index = self.index._replace(
            names=FileNames.of([self.index.names[row] for row in kept.tolist()]),
            shard=self.index.shard[kept],
            offsets=self.index.offsets[kept],
            lengths=self.index.lengths[kept],
            codes=codes,
            counts=tuple((names[i], int(counts[i])) for i in np.flatnonzero(counts)),
            folder=None,
        )
        return Shards(str(self.root), index, self._channels, self._limit)

    def images(self, label_of: Mapping[str | None, int]) -> "ShardSet":
        index = self.index
        labels = [label_of.get(name, -1) for name in index.classes]  # -1: none of its images is left
        if labels == list(range(len(labels))):
            return ShardSet(self.root, index, index.codes, self._channels, self._limit)
        kind = np.min_scalar_type(-max(1, len(label_of)))
        return ShardSet(self.root, index, np.array([*labels, -1], kind)[index.codes], self._channels, self._limit)


def _notes(root: str, index: ShardIndex) -> Iterator[str]:
    for kind, count, first in index.left_out:
        yield f"tar/{root}: {count} members {kind} are left out, the first: {first}"
    missing = dict(index.counts).get(None, 0)
    if missing and index.classes:
        yield f"tar/{root}: {missing} of {len(index.shard)} images have no label"


def _path(index: ShardIndex, row: int) -> Name:
    return named(f"{index.shards[index.shard[row]].path}/{index.names[row].removeprefix('/')}")


def _identities(index: ShardIndex) -> list[Shard]:
    """The shards, called the same from every working directory."""
    return [shard._replace(path=absolute(shard.path)) for shard in index.shards]


def _stamps(index: ShardIndex) -> Ints:
    """[N, 2] of each image: its shard, and its place in it."""
    digests = [hashlib.sha256(os.fsencode(str(shard))).digest()[:8] for shard in _identities(index)]
    of_shard = np.frombuffer(b"".join(digests), np.int64)
    return np.stack([of_shard[index.shard], index.offsets], axis=1)


class Member(NamedTuple):
    """An image, and where it lies."""

    path: Name
    shard: Shard
    offset: int
    length: int


def _member(index: ShardIndex, row: int) -> Member:
    shard = index.shards[index.shard[row]]
    return Member(_path(index, row), shard, int(index.offsets[row]), int(index.lengths[row]))


def check_member(member: Member, channels: int, limit: CacheLimit | None) -> Check:
    """Whether a member of a shard is a usable image."""

    def look() -> Check:
        if member.length > MAX_BYTES:
            return Check(f"a member of {member.length} bytes, more than {MAX_BYTES}", was_read=True)
        data = _files_of([member.shard], limit).read(0, member.offset, member.length)
        if data is None:
            return Check("the shard is missing or has changed", was_read=False)
        decode(data, channels)
        return Check("", was_read=True)

    return checked(member.path, look)


def _files_of(shards: Sequence[Shard], limit: CacheLimit | None) -> LocalFiles | RemoteFiles:
    return RemoteFiles(shards, limit) if is_remote(shards[0].path) else LocalFiles(shards)


class ShardSet(EncodedSet):
    """Images in shards."""

    def __init__(
        self, root: Name, index: ShardIndex, targets: Labels, channels: int, limit: CacheLimit | None = None
    ) -> None:
        self.root = root
        self.index = index
        self.targets = targets
        self.channels = channels
        self.limit = limit  # of what is kept of remote shards
        self._files = _files_of(index.shards, limit)

    def __len__(self) -> int:
        return len(self.index.shard)

    def path(self, index: int) -> Name:
        return _path(self.index, index)

    def name(self, index: int) -> str:
        return self.index.names[index]

    def data(self, index: int) -> bytes:
        shard = int(self.index.shard[index])
        length = int(self.index.lengths[index])
        data = self._files.read(shard, int(self.index.offsets[index]), length)
        if data is None or len(data) < length:
            raise self._changed(shard)
        return data

    def expect(self, rows: Sequence[int]) -> None:
        index = self.index
        self._files.expect([(int(index.shard[i]), int(index.offsets[i]), int(index.lengths[i])) for i in rows])

    def fingerprint(self) -> str:
        """Of name, size and time of every shard, and of the images that are taken of it."""
        digest = hashlib.sha256(f"{self.channels} {_identities(self.index)}\n".encode(errors="surrogateescape"))
        for array in (self.index.shard, self.index.offsets, self.index.lengths):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def group_ends(self) -> Ints:
        return np.searchsorted(self.index.shard, np.arange(len(self.index.shards)), side="right").astype(np.int64)

    def shared(self) -> Shared | None:
        if self.index.folder is None:
            return None
        targets = None if self.targets is self.index.codes else self.targets
        return SharedShards(self.root, self.index.folder, targets, self.channels, self.limit)

    def _changed(self, shard: int) -> BrokenFile:
        path = self.index.shards[shard].path
        return BrokenFile(f"{path}: the shard is missing or has changed since it was indexed", path)

    def __getstate__(self) -> dict[str, object]:
        """For other processes, which open a mapped index again."""
        folder = self.index.folder
        targets = None if self.targets is self.index.codes else self.targets
        return {**vars(self), "index": folder or self.index, "targets": targets, "_files": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        if isinstance(self.index, Path):
            self.index = open_shard_index(self.index)
        if self.targets is None:
            self.targets = self.index.codes
        self._files = _files_of(self.index.shards, self.limit)


class SharedShards(NamedTuple):
    """A ShardSet with an index in the user's cache."""

    root: Name
    folder: Path
    targets: Labels | None  # None: the codes of the index
    channels: int
    limit: CacheLimit | None

    def open(self) -> ShardSet:
        index = open_shard_index(self.folder)
        targets = index.codes if self.targets is None else self.targets
        return ShardSet(self.root, index, targets, self.channels, self.limit)
