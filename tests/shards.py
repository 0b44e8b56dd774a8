"""Shards and tables for the tests, as other programs write them."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from cl.config.data import DataConfig
from cl.data.images import EncodedSet, Splits
from cl.data.sources.registry import load


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of files with the given names and contents, in that order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def as_shards(folder: Path, out: Path, shards: int = 3) -> str:
    """The class folders below `folder` as shards; the glob that names them."""
    images = sorted(folder.glob("*/*.jpg"))
    per_shard = -(-len(images) // shards)
    for number in range(shards):
        members = []
        for image in images[number * per_shard : (number + 1) * per_shard]:
            key = str(image.relative_to(folder).with_suffix(""))
            members += [(f"{key}.jpg", image.read_bytes()), (f"{key}.cls", image.parent.name.encode())]
        write_tar(out / f"{number:03d}.tar", members)
    return f"tar/{out}/*.tar"


def as_table(folder: Path, path: Path, **columns: object) -> None:
    """The class folders below `folder` as a Parquet file of several row groups, with the columns of `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = sorted(folder.glob("*/*.jpg"))
    names = sorted({image.parent.name for image in images})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    cells = [{"bytes": image.read_bytes(), "path": image.name} for image in images]
    table = pa.table({"image": cells, "label": [names.index(image.parent.name) for image in images], **columns})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=10)


def custom(train_dir: str, **flags: object) -> Splits:
    return load(DataConfig(dataset="custom", train_dir=train_dir, **flags))  # type: ignore[arg-type]


def contents(splits: Splits, order: Sequence[int] | None = None) -> list[tuple[bytes, int]]:
    """Bytes and label of each training image."""
    images = splits.train
    assert isinstance(images, EncodedSet)
    return [(images.data(i), int(images.targets[i])) for i in (range(len(images)) if order is None else order)]
