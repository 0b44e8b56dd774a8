"""--serve: the page of a folder in which runs go on. It reads what the runs have written, and writes nothing."""

import hashlib
import io
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cl.config.resume import SUMMARY
from cl.errors import UserError
from cl.report_page.embedding import FILE
from cl.report_page.page import chart_library, page_text
from cl.report_page.pictures import CAPTIONS
from cl.report_page.runs import Run, find_runs

SHOWN = ("config.json", SUMMARY, "metrics.csv", "timing.csv", FILE, *CAPTIONS)  # files that the page is made of
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(folders: Sequence[Path], host: str, port: int) -> None:
    """Serve the page until Ctrl-C."""
    with open_server(folders, host, port) as server:
        os.nice(19)  # what it computes waits for the runs
        address = address_of(host, server.server_port)
        print(f"{address} shows {', '.join(map(str, folders))}; Ctrl-C ends it", flush=True)
        server.serve_forever()


def open_server(folders: Sequence[Path], host: str, port: int) -> ThreadingHTTPServer:
    """A server of the page that listens, but does not answer yet."""
    chart_library("--serve")
    find_runs(folders)  # names what is no run folder, once
    live = Live(folders)
    live.now()

    class Handler(PageHandler):
        page = live
        hosts = LOOPBACK if host in LOOPBACK else ()

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"--port: got {port} on {host}, expected a free port and an address of this machine ({reason})"
        ) from None
    return server


def address_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def named_host(header: str) -> str:
    """The host of a request's Host header, without the port that may follow: ::1 of `[::1]` and of `[::1]:8000`."""
    return re.sub(r":\d*$", "", header).removeprefix("[").removesuffix("]").lower()


class Live:
    """The page as the folders are now; it is made again when a file of a run has changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self._lock = threading.Lock()
        self._runs: dict[Path, Run] = {}
        self._stamp = ""
        self._text = ""

    def now(self) -> tuple[str, str]:
        """The page, and what names this state of it."""
        with self._lock:
            stamp = stamp_of(self.folders)
            if stamp != self._stamp:
                self._text = page_text(self._read(), self.folders, chart_library("--serve"), served=True)
                self._stamp = stamp
            return self._text, self._stamp

    def _read(self) -> list[Run]:
        """The runs; one whose files cannot be read at this moment is as it was."""
        with redirect_stderr(io.StringIO()):
            found = {run.folder: run for run in find_runs([folder for folder in self.folders if folder.is_dir()])}
        self._runs = {folder: run for folder, run in (self._runs | found).items() if folder.is_dir()}
        return [self._runs[folder] for folder in sorted(self._runs)]


def stamp_of(folders: Sequence[Path]) -> str:
    """A digest of sizes and times of the files that the page is made of."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(_files(folder)):
            try:
                status = path.lstat()
            except OSError:
                continue
            digest.update(os.fsencode(path) + f" {status.st_mtime_ns} {status.st_size} {status.st_ino}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    try:
        inner = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for each in (folder, *inner):
        yield from (each / name for name in SHOWN)


class PageHandler(BaseHTTPRequestHandler):
    """Answers with the page, or that it has not changed; it serves no files."""

    page: Live
    hosts: Sequence[str]  # by which a browser may call this machine; empty: any name

    def do_GET(self) -> None:
        if self.hosts and named_host(self.headers.get("Host", "")) not in self.hosts:
            return self.send_error(403)  # a name of someone else that leads to this machine (DNS rebinding)
        if self.path not in ("/", "/update"):
            return self.send_error(404)
        text, stamp = self.page.now()
        if self.path == "/update" and self.headers.get("If-None-Match") == stamp:
            return self._answer(304, b"", stamp)
        self._answer(200, text.encode(), stamp)

    def _answer(self, code: int, content: bytes, stamp: str) -> None:
        self.send_response(code)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "ETag": stamp,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: a line for each update would hide the address."""
