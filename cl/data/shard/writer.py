"""Shards of a set of images, in its order: each appears complete, with its checksum, or not at all."""

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from cl.data.images import EncodedSet
from cl.data.sources.packed.checksums import checksum_path
from cl.data.sources.packed.members import UNLABELLED, read_members
from cl.errors import UserError, one_line

ABOUT = "shards.json"  # what the shards of a folder are made of
BLOCK = 512  # bytes: a member takes a block for its header, and its content fills whole blocks


def write_shards(images: EncodedSet, classes: Sequence[str], out: Path, size: int) -> int:
    """Write the shards that are missing in `out`; return how many there are then."""
    for name in classes:
        if name in UNLABELLED or name != name.rstrip("\r\n"):
            raise UserError(f"FOLDER: got a class called {name!r}, which a shard cannot tell from no label")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _begin(out, {"images": images.fingerprint(), "size": size})
        return _write(images, classes, out, size)
    except OSError as error:
        raise UserError(f"OUT: got {out}, expected a folder that can be written to ({error})") from None


def _begin(out: Path, about: dict[str, Any]) -> None:
    """Note what the shards are made of; UserError if there are shards of something else."""
    path = out / ABOUT
    if path.exists():
        if json.loads(path.read_text()) != about:
            raise UserError(
                f"OUT: got {out}, which has shards of other images or another --size, expected an empty folder, or one "
                "in which the same command was interrupted"
            )
    elif any(out.glob("*.tar")):
        raise UserError(f"OUT: got {out}, which has shards of another program, expected an empty folder")
    else:
        _write_whole(path, json.dumps(about).encode())


def _write(images: EncodedSet, classes: Sequence[str], out: Path, size: int) -> int:
    number = 0
    row = 0
    hidden = not sys.stderr.isatty()
    with tqdm(desc=one_line(f"writing {out}"), total=len(images), unit="image", leave=False, disable=hidden) as bar:
        while row < len(images):
            path = out / f"shard-{number:06d}.tar"
            count = _count(path, images.channels) if path.exists() else 0
            if not count:
                count = _write_shard(images, classes, row, path, size)
            row += count
            number += 1
            bar.update(count)
    return number


def _count(path: Path, channels: int) -> int:
    with path.open("rb") as file:
        return len(read_members(file, path.stat().st_size, channels, None).names)


def _write_shard(images: EncodedSet, classes: Sequence[str], first: int, path: Path, size: int) -> int:
    """Write the images from row `first` on that fit into `size` bytes, at least one; return how many."""
    temporary = path.with_name(f".{path.name}.part")
    count = 0
    with temporary.open("wb") as file:
        digesting = _Digesting(file)
        left = size - 2 * BLOCK  # which end a tar
        with tarfile.open(fileobj=digesting, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8",
                          errors="surrogateescape") as tar:  # fmt: skip
            for members in _members(images, classes, first):
                left -= sum(_blocks(content) for _, content in members)
                if count and left < 0:
                    break
                for name, content in members:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                count += 1
        file.flush()
        os.fsync(file.fileno())
    _write_whole(checksum_path(path), f"{digesting.digest.hexdigest()}  {path.name}\n".encode())
    os.replace(temporary, path)
    return count


def _blocks(content: bytes) -> int:
    return BLOCK - (-len(content) // BLOCK) * BLOCK


def _members(images: EncodedSet, classes: Sequence[str], first: int) -> Iterator[list[tuple[str, bytes]]]:
    """Names and contents of the members of each image."""
    used: set[str] = set()
    for row in range(first, len(images)):
        path = os.path.relpath(images.name(row), ".")
        stem, suffix = os.path.splitext(path)
        key = unused(key_of(stem), used)
        used.add(key)
        members = [(f"{key}{suffix.lower()}", images.data(row))]
        label = int(images.targets[row])
        if label >= 0:
            members.append((f"{key}.cls", os.fsencode(classes[label])))
        yield members


def key_of(stem: str) -> str:
    """A path without its suffix as a key of WebDataset, which has no dot behind the last slash."""
    folder, name = os.path.split(stem)
    return os.path.join(folder, name.replace("%", "%25").replace(".", "%2E"))


def unused(key: str, used: set[str]) -> str:
    """The key, or if another image of the shard has it, one that no file name gives."""
    number = 2
    found = key
    while found in used:
        found = f"{key}%2F{number}"
        number += 1
    return found


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class _Digesting(io.RawIOBase):
    """Passes on what is written, and digests it."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)
