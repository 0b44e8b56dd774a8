"""A web server on this machine that fails, stalls or cuts off one request in ten; it lists folders as S3 does."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

STALL = 3.0  # seconds, more than the clients of the tests wait


class Server(ThreadingHTTPServer):
    """Serves the files of a folder, ranges of them too; folders in it are buckets."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path, every: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.every = every  # of so many requests one fails; 0: none, 1: all
        self.numbers = count(1)
        self.failed = 0
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def _serve(self, with_body: bool) -> None:
        server = self.server
        server.asked.append(self.path)
        number = next(server.numbers)
        failure = server.every and number % server.every == 0
        way = None
        if failure:
            way = number // server.every % 3 if server.every > 1 else 0
        server.failed += bool(failure)
        url = urlsplit(self.path)
        path = server.root / url.path.lstrip("/")
        if "list-type" in parse_qs(url.query) and path.is_dir():
            self._answer(200, _listing(path, parse_qs(url.query).get("prefix", [""])[0]))
            return
        if way == 0 or not path.is_file():
            self._answer(404 if way is None else 503, b"")
            return
        if way == 1:
            time.sleep(STALL)
        self._send(path, with_body, cut_off=way == 2)

    def _answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send(self, path: Path, with_body: bool, cut_off: bool) -> None:
        content = path.read_bytes()
        size = len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted:
            begin, end = int(wanted[1]), min(int(wanted[2]) + 1, size)
            content = content[begin:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if cut_off else content)
        self.close_connection = cut_off


def _listing(bucket: Path, prefix: str) -> bytes:
    """What S3 answers to ListObjectsV2."""
    keys = sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
    objects = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{os.path.getsize(bucket / key)}</Size>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
        if key.startswith(prefix)
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>".encode()


@contextmanager
def serving(root: Path, every: int = 0) -> Iterator[Server]:
    server = Server(root, every)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
