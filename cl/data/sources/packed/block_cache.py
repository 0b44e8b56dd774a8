"""Blocks of remote shards on a disk of this machine, at most so many bytes: those that were not used for longest go."""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cl.machine.kept_files import keep_file

BLOCK = 1 << 22  # bytes
FULL = 0.9  # of the limit, to which a full cache is emptied
PART = 0.01  # of the limit, that a process writes before it looks at the whole cache again; others write too


class CacheLimit(NamedTuple):
    """Where blocks are kept, and how many bytes of them."""

    folder: Path
    size: int


@cache
def block_cache(limit: CacheLimit) -> "BlockCache":
    """The one of this process."""
    return BlockCache(limit)


class BlockCache:
    """Reads and writes blocks; what cannot be written is asked for again."""

    def __init__(self, limit: CacheLimit) -> None:
        self._limit = limit
        self._written = int(PART * limit.size)  # by this process since it looked at the whole cache: it looks at once

    def path(self, shard: tuple[str, int, int], block: int) -> Path:
        """Another one for each version of a shard."""
        name = hashlib.sha256(os.fsencode(f"{shard[0]} {shard[1]} {shard[2]}")).hexdigest()[:32]
        return self._limit.folder / name / f"{block:08d}"

    def has(self, shard: tuple[str, int, int], block: int) -> bool:
        return self.path(shard, block).exists()

    def get(self, shard: tuple[str, int, int], block: int) -> bytes | None:
        self._count(0)
        path = self.path(shard, block)
        try:
            content = path.read_bytes()
            os.utime(path)  # used now
        except OSError:  # another process may have removed it
            return None
        return content if len(content) == min(BLOCK, shard[1] - block * BLOCK) else None

    def put(self, shard: tuple[str, int, int], block: int, content: bytes) -> None:
        self._count(len(content))
        keep_file(self.path(shard, block), lambda file: file.write(content))

    def _count(self, size: int) -> None:
        self._written += size
        if self._written >= int(PART * self._limit.size):
            self._make_room(size)
            self._written = 0

    def _make_room(self, needed: int) -> None:
        """Remove the blocks that were not used for longest, if the cache is full; others may remove them as well."""
        found = []
        for path in self._limit.folder.glob("*/*"):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found) + needed
        if total <= self._limit.size:
            return
        for _, size, path in sorted(found):
            if total <= FULL * self._limit.size:
                return
            path.unlink(missing_ok=True)
            total -= size
