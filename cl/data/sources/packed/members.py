"""One shard: which of its members are images, where they lie, and their labels, by WebDataset's names.

The members KEY.jpg, KEY.cls and KEY.json belong together. KEY ends at the first dot behind the last slash.
"""

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cl.data.decoding.formats import image_suffixes
from cl.data.sources.names import FileNames
from cl.data.sources.walk import is_hidden
from cl.data.views.draws import Ints, Labels

UNLABELLED = ("", "-1")  # as in a file of labels
LARGEST_FIELD = 1 << 24  # bytes of a label
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
BLOCK = 512  # bytes; two of zeros end a tar


class BadShard(Exception):
    """Why a file is no shard: a clause."""


class Compressed(BadShard):
    """Its images cannot be found without unpacking it."""


class Members(NamedTuple):
    """The images of a shard, in its order."""

    names: FileNames  # [N] as the tar has them
    offsets: Ints  # [N] of the encoded image in the shard
    lengths: Ints  # [N] bytes
    codes: Labels  # [N] into `classes`, -1 without a label
    classes: tuple[str, ...]
    left_out: Mapping[str, tuple[int, str]]  # by kind, how many members were not taken, and the first


class _Scan:
    """What has been met of a shard so far."""

    def __init__(self, label_field: str | None) -> None:
        self.label_field = label_field
        self.images: dict[str, tuple[str, int, int]] = {}  # by key: name, offset, length
        self.labels: dict[str, str | None] = {}
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def leave_out(self, kind: str, name: str) -> None:
        self.left_out[kind] += 1
        self.first.setdefault(kind, name)


def read_members(file: BinaryIO, size: int, channels: int, label_field: str | None) -> Members:
    """The images of a tar of `size` bytes; BadShard if it is none, is not whole, or has two images or labels of a key.

    Labels are the text of KEY.cls, or the field `label_field` of KEY.json.
    """
    head = file.read(6)
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            raise Compressed(f"it is compressed with {name}")
    if not size:
        raise BadShard("the file is empty")
    scan = _Scan(label_field)
    suffixes = image_suffixes(channels)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                if member.offset_data + member.size > size:
                    raise BadShard(f"it is truncated: {member.name} has {member.size} bytes and is not all there")
                _add(scan, member, file, suffixes)
            _check_end(file, tar.offset, size)
    except tarfile.TarError as error:
        raise BadShard(f"it is truncated or no tar: {error}") from None
    return _members(scan)


def _add(scan: _Scan, member: tarfile.TarInfo, file: BinaryIO, suffixes: frozenset[str]) -> None:
    """Take an image or a label."""
    if member.isdir():
        return
    name = member.name.removeprefix("./")
    folder, base = posixpath.split(name)
    stem, _, field = base.partition(".")
    key = posixpath.join(folder, stem)
    field = field.lower()
    if any(map(is_hidden, name.split("/"))):
        scan.leave_out("with hidden names", name)
    elif not member.isreg() or member.issparse():
        scan.leave_out("that are links, devices or sparse", name)
    elif f".{field}" in suffixes:
        if key in scan.images:
            raise BadShard(f"it has two images of one key, {scan.images[key][0]} and {name}")
        scan.images[key] = (name, member.offset_data, member.size)
    elif field == ("cls" if scan.label_field is None else "json"):
        if key in scan.labels:
            raise BadShard(f"it has two labels of one key, {name}")
        scan.labels[key] = _label(scan, member, file)
    elif field == "json":
        scan.leave_out("named KEY.json, which only --label_column reads,", name)
    else:
        scan.leave_out("with other names", name)


def _label(scan: _Scan, member: tarfile.TarInfo, file: BinaryIO) -> str | None:
    if member.size > LARGEST_FIELD:
        raise BadShard(f"{member.name} has {member.size} bytes, too many for a label")
    file.seek(member.offset_data)
    try:
        content = file.read(member.size)
        if scan.label_field is None:
            text = content.decode(errors="surrogateescape").rstrip("\r\n")  # as the name of a folder is decoded
        else:
            text = _field(json.loads(content), scan.label_field)
    except ValueError as error:
        raise BadShard(f"the label of {member.name} cannot be read ({error})") from None
    return None if text in UNLABELLED else text


def _field(record: Any, name: str) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is {json.dumps(value)[:50]}, expected a text or a whole number")
    return str(value)


def _check_end(file: BinaryIO, offset: int, size: int) -> None:
    """A tar ends with blocks of zeros: without, a part of it is missing or damaged, and tarfile stops in silence."""
    file.seek(offset)
    if size - offset < BLOCK:
        raise BadShard("it is truncated: the empty blocks that end a tar are missing")
    while part := file.read(1 << 20):
        if part.strip(b"\0"):
            raise BadShard(f"it is damaged, or several tars were joined: byte {offset} begins no member")


def _members(scan: _Scan) -> Members:
    for key in scan.labels:
        if key not in scan.images:
            scan.leave_out("that label no image", key)
    found = [scan.labels.get(key) for key in scan.images]
    classes = tuple(sorted({name for name in found if name is not None}))
    code = {name: number for number, name in enumerate(classes)}
    return Members(
        names=FileNames.of([name for name, _, _ in scan.images.values()]),
        offsets=np.array([offset for _, offset, _ in scan.images.values()], np.int64),
        lengths=np.array([length for _, _, length in scan.images.values()], np.int64),
        codes=np.array([-1 if name is None else code[name] for name in found], np.int32),
        classes=classes,
        left_out={kind: (count, scan.first[kind]) for kind, count in scan.left_out.items()},
    )
