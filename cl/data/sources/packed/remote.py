"""Shards in object stores: ranges of them, read ahead of need by a process of their own."""

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from cl.data.sources.packed.block_cache import BLOCK, BlockCache, CacheLimit, block_cache
from cl.errors import UserError

TIMEOUT = 30.0  # seconds for one request
PAUSES = (0.2, 1.0, 4.0, 15.0, 60.0)  # seconds between attempts
BUFFER = 1 << 20  # bytes that indexing asks for at a time
ROOT = Path(__file__).resolve().parents[4]


class Unreachable(OSError):
    """What a store did not give, however often it was asked."""


class Answer(NamedTuple):
    about: dict[str, Any]
    content: bytes


class Asking:
    """A connection to the process that asks stores, which is started for the first question and ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._asked = 0
        self._answers: dict[int, Answer] = {}

    def ask(self, what: str, url: str, begin: int = 0, end: int = 0) -> int:
        """Ask without waiting; the number of the question."""
        if self._owner != os.getpid():  # a forked process has its own
            self._start()
        self._asked += 1
        question = {"number": self._asked, "what": what, "url": url, "begin": begin, "end": end}
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return self._asked

    def answer(self, number: int) -> Answer:
        """The answer to a question; FileNotFoundError or Unreachable with the reason, if there is none."""
        assert self._process is not None
        assert self._process.stdout is not None
        while number not in self._answers:
            head = self._process.stdout.readline()
            if not head:
                raise Unreachable("the process that asks the store has ended")
            about = json.loads(head)
            content = self._process.stdout.read(about["length"])
            self._answers[about["number"]] = Answer(about, content)
        found = self._answers.pop(number)
        if "error" in found.about:
            raise (FileNotFoundError if found.about["missing"] else Unreachable)(found.about["error"])
        return found

    def _start(self) -> None:
        command = [sys.executable, "-m", "cl.data.sources.packed.remote_process", str(TIMEOUT), json.dumps(PAUSES)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            start_new_session=True,  # signals of a terminal are for the run; it ends when its input does
        )
        self._owner = os.getpid()
        self._answers = {}


ASKING = Asking()  # of this process


def remote_shards(pattern: str, argument: str) -> list[str]:
    """The URLs that a pattern without braces names; buckets can be listed, web servers cannot."""
    if importlib.util.find_spec("obstore") is None:
        raise UserError(f"{argument}: got tar/{pattern}, but obstore is not installed; expected pip install obstore")
    scheme, _, rest = pattern.partition("://")
    if not has_magic(rest):
        return [pattern]
    if scheme in ("http", "https"):
        raise UserError(
            f"{argument}: got tar/{pattern}, expected shards by number, such as {{000..127}}: a web server cannot be "
            "listed"
        )
    bucket, *parts = rest.split("/")
    fixed = "/".join(takewhile(lambda part: not has_magic(part), parts))
    try:
        if has_magic(bucket):
            raise Unreachable("the name of the bucket cannot be a glob")
        found = ASKING.answer(ASKING.ask("list", f"{scheme}://{bucket}/{fixed}")).about["paths"]
    except OSError as error:
        raise UserError(f"{argument}: got tar/{pattern}, expected a bucket that can be listed ({error})") from None
    return [f"{scheme}://{bucket}/{each}" for each in found if _in_glob(each.split("/"), parts)]


def _in_glob(path: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path matches a glob, part by part, as on a disk: `*` is within a part, and hidden names are typed."""
    if not parts:
        return not path
    if parts[0] == "**" and _in_glob(path, parts[1:]):
        return True
    if not path or (path[0].startswith(".") and not parts[0].startswith(".")):
        return False
    return fnmatchcase(path[0], parts[0]) and _in_glob(path[1:], parts if parts[0] == "**" else parts[1:])


def remote_stamp(url: str) -> tuple[int, int]:
    """Size of a shard, and a number that changes with it."""
    return _stamp(ASKING.answer(ASKING.ask("head", url)).about)


def _stamp(about: dict[str, Any]) -> tuple[int, int]:
    return about["size"], int.from_bytes(hashlib.sha256(about["version"].encode()).digest()[:7])


class RemoteFiles:
    """Reads ranges of shards, in whole blocks if they are kept on this machine."""

    def __init__(self, urls: Sequence[tuple[str, int, int]], limit: CacheLimit | None) -> None:
        self._urls = urls
        self._cache = block_cache(limit) if limit is not None else None
        self._process = 0
        self._expected: dict[tuple[int, int, int], int] = {}  # questions that wait for their answers

    def expect(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Ask for ranges (shard, begin, length) that are read next."""
        if self._process != os.getpid():
            self._expected = {}
            self._process = os.getpid()
        for shard, begin, length in ranges:
            if self._cache is None:
                self._ask(shard, begin, length)
                continue
            for block in _blocks(begin, length):
                if not self._cache.has(self._urls[shard], block):
                    self._ask(*self._range(shard, block))

    def read(self, shard: int, begin: int, length: int) -> bytes | None:
        """The bytes; None if the shard is no longer there, or another one."""
        self.expect([(shard, begin, length)])
        if self._cache is None:
            return self._fetched(shard, begin, length)
        parts = [self._block(self._cache, shard, block) for block in _blocks(begin, length)]
        first = begin - begin // BLOCK * BLOCK
        whole = [part for part in parts if part is not None]
        return b"".join(whole)[first : first + length] if len(whole) == len(parts) else None

    def _block(self, cache: BlockCache, shard: int, block: int) -> bytes | None:
        content = cache.get(self._urls[shard], block)
        if content is None:
            content = self._fetched(*self._range(shard, block))
            if content is not None:
                cache.put(self._urls[shard], block, content)
        return content

    def _range(self, shard: int, block: int) -> tuple[int, int, int]:
        return shard, block * BLOCK, min(BLOCK, self._urls[shard][1] - block * BLOCK)

    def _ask(self, shard: int, begin: int, length: int) -> None:
        if (shard, begin, length) not in self._expected:
            number = ASKING.ask("range", self._urls[shard][0], begin, begin + length)
            self._expected[shard, begin, length] = number

    def _fetched(self, shard: int, begin: int, length: int) -> bytes | None:
        self._ask(shard, begin, length)  # unless that is done
        number = self._expected.pop((shard, begin, length))
        try:
            about, content = ASKING.answer(number)
        except FileNotFoundError:
            return None
        return content if _stamp(about) == tuple(self._urls[shard][1:]) else None


def _blocks(begin: int, length: int) -> range:
    """The blocks that a range touches."""
    return range(begin // BLOCK, (begin + max(length, 1) - 1) // BLOCK + 1)


class RemoteFile(io.RawIOBase):
    """A shard as a file, for the index."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = size
        self._at = 0

    @staticmethod
    def buffered(url: str, size: int) -> io.BufferedReader:
        return io.BufferedReader(RemoteFile(url, size), BUFFER)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        content = ASKING.answer(ASKING.ask("range", self._url, self._at, end)).content
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
