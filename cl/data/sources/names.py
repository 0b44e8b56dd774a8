"""Names of files as one array of bytes. No torch: folders are listed before it is imported."""

import os
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from cl.data.views.draws import Ints


class FileNames(Sequence[str]):
    """A sequence of names. A list of a million strings is copied into every worker as reference counts change
    (pytorch#13246); two arrays are shared by all, and may be memory-mapped."""

    def __init__(self, text: NDArray[np.uint8], ends: Ints) -> None:
        self.text = text  # the names one after another, as the file system has them
        self.ends = ends  # [N] where each ends in `text`

    @staticmethod
    def of(names: Sequence[str]) -> "FileNames":
        if isinstance(names, FileNames):
            return names
        text = np.frombuffer(os.fsencode("".join(names)), np.uint8)
        ends = np.fromiter(map(len, names), np.int64, len(names)).cumsum()
        if len(names) and ends[-1] != len(text):  # characters of several bytes
            ends = np.fromiter((len(os.fsencode(name)) for name in names), np.int64, len(names)).cumsum()
        return FileNames(text, ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "FileNames": ...
    def __getitem__(self, index: int | slice) -> "str | FileNames":
        if isinstance(index, slice):
            return FileNames.of([self[i] for i in range(*index.indices(len(self)))])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        begin = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[begin : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        text = self.text.tobytes()
        begin = 0
        for end in self.ends.tolist():
            yield os.fsdecode(text[begin:end])
            begin = end

    def equals(self, other: "FileNames") -> bool:
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.text, other.text)
