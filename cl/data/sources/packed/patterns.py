"""Which shards a glob names."""

import glob
import os
import re
from collections.abc import Iterator

from cl.data.sources.packed.remote import remote_shards
from cl.data.sources.places import is_remote
from cl.errors import UserError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.lzma")
_BRACES = re.compile(r"\{([^{}]*)\}")


def matching_shards(pattern: str, argument: str) -> list[str]:
    """The .tar files that a glob, or a list in braces, names, in byte order; UserError if there are none."""
    found = {path for each in expanded(pattern) for path in _matches(each, argument)}
    compressed = sorted(path for path in found if path.lower().endswith(COMPRESSED))
    if compressed:
        raise compressed_shard(argument, compressed[0])
    shards = sorted((path for path in found if path.lower().endswith(".tar")), key=os.fsencode)
    if shards:
        return shards
    if os.path.isdir(pattern):
        raise UserError(f"{argument}: got tar/{pattern}, a folder, expected a glob such as tar/{pattern}/*.tar")
    raise UserError(f"{argument}: got tar/{pattern}, expected a glob that matches .tar files; it matches none")


def compressed_shard(argument: str, shard: str) -> UserError:
    return UserError(
        f"{argument}: got {shard}, which is compressed, expected plain .tar files, in which any image can be found: "
        "unpack the compression"
    )


def expanded(pattern: str) -> Iterator[str]:
    """The patterns that one with braces stands for: {000..127}, {a,b}."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    first, _, last = braces[1].partition("..")
    if first.isdecimal() and last.isdecimal():
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        parts = braces[1].split(",")
    for part in parts:
        yield from expanded(pattern[: braces.start()] + part + pattern[braces.end() :])


def _matches(pattern: str, argument: str) -> list[str]:
    """What a glob matches; a plain path has to exist."""
    if is_remote(pattern):
        return remote_shards(pattern, argument)
    if glob.has_magic(pattern):
        return glob.glob(pattern, recursive=True)
    if not os.path.exists(pattern):
        raise UserError(f"{argument}: got {pattern}, expected a shard; there is nothing at that path")
    return [pattern]
