"""`hf/PATH`: images in a column of Parquet files, or of a data set that was saved on disk."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cl.config.data import DataConfig
from cl.data.decoding.decode import decode
from cl.data.decoding.formats import HEAD, NPY, kind_of
from cl.data.images import EncodedSet, Shared
from cl.data.sources.manifest import Check, bad_rows, checked, manifest_path, map_checks
from cl.data.sources.names import FileNames
from cl.data.sources.places import Place, absolute
from cl.data.views.draws import Ints, Labels
from cl.errors import UserError

if TYPE_CHECKING:  # pyarrow is optional
    from cl.data.sources.packed.table_files import Rows

IMAGE = "image"  # the usual names of columns
LABEL = "label"
SUFFIXES = {"PNG": ".png", "WebP": ".webp", "TIFF": ".tif", "GIF": ".gif", "BMP": ".bmp"}  # of other images: .jpg


def open_table(path: str, argument: str, config: DataConfig) -> "Table":
    """The rows of the files that a path names."""
    try:
        import pyarrow as pa

        from cl.data.sources.packed.table_files import Rows, opened, table_file, table_paths
    except ImportError:
        raise UserError(
            f"{argument}: got hf/{path}, but pyarrow is not installed; expected pip install pyarrow"
        ) from None
    if config.labels is not None:
        raise UserError(f"--labels: got {config.labels} with {argument} hf/{path}, expected --label_column")
    column = config.image_column or IMAGE
    files = []
    classes: list[str | None] = []
    for name in table_paths(path, argument):
        try:
            file = opened(name)
            classes += _classes(file, name, column, config.label_column)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{argument}: got {name}, expected a Parquet or Arrow file ({reason})") from None
        files.append(table_file(name, file))
    if not classes:
        raise UserError(f"{argument}: got hf/{path}, expected images; it has no rows")
    return Table(path, Rows(files, column), np.arange(len(classes)), classes, config.in_channels)


def _classes(file: Any, name: str, column: str, label_column: str | None) -> list[str | None]:
    """The class of each row of a file; UserError if it lacks a column, or labels are of another kind."""
    import pyarrow as pa

    is_arrow = isinstance(file, pa.Table)
    schema = file.schema if is_arrow else file.schema_arrow
    for flag, given in (("image_column", column), ("label_column", label_column)):
        if given is not None and given not in schema.names:
            raise UserError(f"--{flag}: got {given}, expected a column of {name}: {', '.join(schema.names)}")
    kind = schema.field(column).type
    fields = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or "bytes" in fields):
        raise UserError(f"--image_column: got {column}, which has {kind} in {name}, expected encoded images")
    label = label_column or LABEL
    rows = file.num_rows if is_arrow else file.metadata.num_rows
    if label not in schema.names:
        return [None] * rows
    kind = schema.field(label).type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"--label_column: got {label}, which has {kind} in {name}, expected whole numbers or texts")
    cells = (file if is_arrow else file.read(columns=[label], use_threads=False)).column(label).to_pylist()
    names = _class_label(schema.metadata or {}, label)
    return [None if cell in (None, -1, "", "-1") else names[cell] if names else str(cell) for cell in cells]


def _class_label(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    """The names of the numbers of a label column, as `datasets` keeps them; none if it did not write the table."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names: list[str] = features.get(label, {}).get("names") or []
    return names


class Table(Place):
    """Some rows of a table."""

    prefix = "hf/"

    def __init__(self, root: str, rows: "Rows", chosen: Ints, classes: Sequence[str | None], channels: int) -> None:
        self.root: Path = Path(root)
        self.counts = Counter(classes)
        missing = self.counts[None]
        self.left_out = (
            (f"hf/{root}: {missing} of {len(classes)} images have no label",) if 0 < missing < len(classes) else ()
        )
        self._rows = rows
        self._chosen = chosen
        self._classes = classes
        self._channels = channels

    def path(self, row: int) -> Path:
        return _path(self._rows, int(self._chosen[row]))

    def bad(self, trusted: bool) -> dict[int, str]:
        if trusted:
            return {}

        def checks(rows: Sequence[int]) -> Iterator[Check]:
            check = partial(check_row, table=self._rows, channels=self._channels)
            return map_checks(check, self._chosen[list(rows)].tolist(), self.root)

        names = FileNames.of([str(row) for row in self._chosen.tolist()])
        return bad_rows(manifest_path(self.root, self._channels), self.root, names, self._stamps(), checks)

    def _stamps(self) -> Ints:
        """[N, 2] of each image: its file and the column, and its row."""
        digests = [hashlib.sha256(os.fsencode(key)).digest()[:8] for key in _identities(self._rows)]
        of_file = np.frombuffer(b"".join(digests), np.int64)
        file = [self._rows.place(row)[0] for row in self._chosen.tolist()]
        return np.stack([of_file[file], self._chosen], axis=1)

    def without(self, rows: Collection[int]) -> "Table":
        kept = np.setdiff1d(np.arange(len(self._chosen)), np.fromiter(rows, np.int64))
        classes = [self._classes[row] for row in kept.tolist()]
        return Table(str(self.root), self._rows, self._chosen[kept], classes, self._channels)

    def images(self, label_of: Mapping[str | None, int]) -> "TableSet":
        kind = np.min_scalar_type(-max(1, len(label_of)))
        targets = np.array([label_of[name] for name in self._classes], kind)
        return TableSet(self.root, self._rows, self._chosen, targets, self._channels)


def _path(rows: "Rows", row: int) -> Path:
    number, row_of_file = rows.place(row)
    return Path(rows.files[number].path, f"row {row_of_file}")


def _identities(rows: "Rows") -> list[str]:
    """The columns of the files, called the same from every working directory."""
    return [f"{absolute(file.path)} {file.stamp} {rows.column}" for file in rows.files]


def check_row(row: int, table: "Rows", channels: int) -> Check:
    """Whether a cell is a usable image."""

    def look() -> Check:
        decode(table.data(row), channels)
        return Check("", was_read=True)

    return checked(_path(table, row), look)


class TableSet(EncodedSet):
    """Images in a column."""

    def __init__(self, root: Path, rows: "Rows", chosen: Ints, targets: Labels, channels: int) -> None:
        self.root = root
        self.targets = targets
        self.channels = channels
        self._rows = rows
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def path(self, index: int) -> Path:
        return _path(self._rows, int(self._chosen[index]))

    def name(self, index: int) -> str:
        """A name as a file would have it, by what the image is."""
        data = self.data(index)
        suffix = ".npy" if data.startswith(NPY) else SUFFIXES.get(kind_of(data[:HEAD]) or "", ".jpg")
        return f"{int(self._chosen[index]):08d}{suffix}"

    def data(self, index: int) -> bytes:
        return self._rows.data(int(self._chosen[index]))

    def fingerprint(self) -> str:
        about = f"{self.channels} {_identities(self._rows)}\n"
        return hashlib.sha256(about.encode(errors="surrogateescape") + self._chosen.tobytes()).hexdigest()

    def group_ends(self) -> Ints:
        return np.searchsorted(self._chosen, self._rows.group_ends())

    def shared(self) -> Shared | None:
        return None
