"""Ranges of files, read with `pread`, which needs no position: processes may share the open files."""

import os
from collections.abc import Sequence

from cl.data.decoding.decode import patiently

OPEN_FILES = 128  # that a process keeps open; the usual limit is 1024


class LocalFiles:
    """Reads ranges of files."""

    def __init__(self, files: Sequence[tuple[str, int, int]]) -> None:
        self._about = files  # path, size, time
        self._open: dict[int, int] = {}  # descriptors, the most recently used last

    def expect(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Nothing: the system reads files when they are asked for."""

    def read(self, number: int, begin: int, length: int) -> bytes | None:
        """The bytes; None if the file is missing or another one."""
        return patiently(lambda: self._pread(number, begin, length))

    def _pread(self, number: int, begin: int, length: int) -> bytes | None:
        file = self._file(number)
        if file is None:
            return None
        try:
            return os.pread(file, length, begin)
        except OSError:  # of a network: the next attempt opens the file anew
            os.close(self._open.pop(number))
            raise

    def _file(self, number: int) -> int | None:
        """The descriptor of a file, which is opened if it is not open."""
        file = self._open.pop(number, None)
        if file is None:
            file = self._opened(number)
        if file is None:
            return None
        self._open[number] = file
        while len(self._open) > OPEN_FILES:
            os.close(self._open.pop(next(iter(self._open))))
        return file

    def _opened(self, number: int) -> int | None:
        path, size, time = self._about[number]
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        status = os.fstat(file)
        if (status.st_size, status.st_mtime_ns) != (size, time):
            os.close(file)
            return None
        return file

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)
