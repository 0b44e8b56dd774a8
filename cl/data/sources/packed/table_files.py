"""Rows of Parquet and Arrow files, in any order. A process keeps few of them in memory."""

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from cl.data.decoding.decode import BrokenFile
from cl.data.sources.walk import stamp
from cl.data.views.draws import Ints
from cl.errors import UserError

GROUPS = 2  # row groups of Parquet files that a process keeps
STATE = "state.json"  # in a folder that `save_to_disk` of datasets wrote; it names the files in order
SPLITS = "dataset_dict.json"  # in one of several splits


class TableFile(NamedTuple):
    """A file, what identifies its content, and its rows."""

    path: str
    stamp: tuple[int, int]
    group_ends: tuple[int, ...]  # rows up to the end of each row group; an Arrow file is one


def table_paths(path: str, argument: str) -> list[str]:
    """The files of a table, in order: of a glob, one file, a folder of Parquet files, or a saved data set."""
    given = f"{argument}: got hf/{path}"
    if glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True), key=os.fsencode)
    elif os.path.isdir(path):
        if os.path.exists(os.path.join(path, SPLITS)):
            splits = json.loads(Path(path, SPLITS).read_text())["splits"]
            raise UserError(f"{given}, expected one split: hf/{path}/{splits[0]} (it has {', '.join(splits)})")
        if os.path.exists(os.path.join(path, STATE)):
            files = json.loads(Path(path, STATE).read_text())["_data_files"]
            return [os.path.join(path, file["filename"]) for file in files]
        found = sorted(glob.glob(os.path.join(glob.escape(path), "*.parquet")), key=os.fsencode)
    else:
        found = [path] if os.path.exists(path) else []
    if not found:
        raise UserError(f"{given}, expected Parquet files or a data set saved on disk; there are none")
    return found


def opened(path: str) -> Any:
    """A ParquetFile, or the Table of an Arrow file, which is mapped; pa.ArrowInvalid or OSError if it is neither."""
    if path.endswith(".arrow"):
        source = pa.memory_map(path)
        try:
            return ipc.open_stream(source).read_all()  # as datasets saves it
        except pa.ArrowInvalid:
            source.seek(0)
            return ipc.open_file(source).read_all()
    return pq.ParquetFile(path, memory_map=True)


def table_file(path: str, file: Any) -> TableFile:
    if isinstance(file, pa.Table):
        return TableFile(path, stamp(Path(path)), (file.num_rows,))
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    return TableFile(path, stamp(Path(path)), tuple(np.cumsum(groups).tolist()))


class Rows:
    """The images of one column of several files: encoded, by row."""

    def __init__(self, files: Sequence[TableFile], column: str) -> None:
        self.files = tuple(files)
        self.column = column
        self._ends = np.cumsum([file.group_ends[-1] if file.group_ends else 0 for file in files])
        self._process = 0
        self._open: dict[int, Any] = {}
        self._groups: dict[tuple[int, int], Any] = {}  # the most recently used last

    def __len__(self) -> int:
        return int(self._ends[-1])

    def group_ends(self) -> Ints:
        """[S] rows up to the end of each row group of all files."""
        begins = [0, *self._ends[:-1].tolist()]
        ends = [begin + end for begin, file in zip(begins, self.files, strict=True) for end in file.group_ends]
        return np.array(ends, np.int64)

    def place(self, row: int) -> tuple[int, int]:
        """The number of the file, and the row in it."""
        file = int(np.searchsorted(self._ends, row, side="right"))
        return file, row - (int(self._ends[file - 1]) if file else 0)

    def data(self, row: int) -> bytes:
        """The encoded image; nothing if the cell is empty."""
        if self._process != os.getpid():  # a forked process opens the files anew
            self._open = {}
            self._groups = {}
            self._process = os.getpid()
        number, row = self.place(row)
        group = int(np.searchsorted(self.files[number].group_ends, row, side="right"))
        begin = self.files[number].group_ends[group - 1] if group else 0
        cell = self._group(number, group)[row - begin]
        if pa.types.is_struct(cell.type):  # an image of datasets: bytes and path
            cell = cell["bytes"] if cell.is_valid else None
        content = cell.as_py() if cell is not None else None
        return content or b""

    def _group(self, number: int, group: int) -> Any:
        """The cells of a row group; those of an Arrow file are mapped."""
        key = (number, group)
        cells = self._groups.pop(key, None)
        if cells is None:
            cells = self._read(number, group)
        self._groups[key] = cells
        while len(self._groups) > GROUPS:
            del self._groups[next(iter(self._groups))]
        return cells

    def _read(self, number: int, group: int) -> Any:
        about = self.files[number]
        if number not in self._open:
            if stamp(Path(about.path)) != about.stamp:
                raise BrokenFile(f"{about.path}: the file is missing or has changed since the run began", about.path)
            self._open[number] = opened(about.path)
        file = self._open[number]
        if not isinstance(file, pa.Table):
            file = file.read_row_group(group, columns=[self.column], use_threads=False)  # threads do not survive a fork
        return file.column(self.column)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_open": {}, "_groups": {}}
