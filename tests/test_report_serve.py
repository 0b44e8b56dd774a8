"""--serve: the page of runs that go on, for this machine only."""

import http.client
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from cl.errors import UserError
from cl.report import main
from cl.report_page.serve import Live, address_of, open_server
from tests.report_runs import metrics_text, write_run


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[ThreadingHTTPServer]:
    """A server of `folder` in a thread."""
    with open_server([folder], host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server: ThreadingHTTPServer, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(str(server.server_address[0]), server.server_port, timeout=30)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def test_an_update_is_sent_when_a_run_has_written_something(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 0, epochs=3, ended=False)
    with serving(tmp_path) as server:
        first = get(server, "/")
        assert "epoch 3 of 12" in first.read().decode()
        stamp = first.headers["ETag"]
        assert get(server, "/update", If_None_Match=stamp).status == 304
        (folder / "metrics.csv").write_text(metrics_text(0, 4))
        update = get(server, "/update", If_None_Match=stamp)
        assert (update.status, "epoch 4 of 12" in update.read().decode()) == (200, True)


def test_nothing_but_the_page_is_served_and_to_this_machine_only(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    with serving(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"
        for path in ("/a/config.json", "/../secret", "//etc/passwd", "/update/../a/config.json", "/?x"):
            assert get(server, path).status == 404
        assert get(server, "/", Host="attacker.example:8765").status == 403
        assert get(server, "/", Host=f"localhost:{server.server_port}").status == 200


def test_a_browser_may_name_this_machine_with_or_without_a_port(tmp_path: Path) -> None:
    """Browsers leave out the port of http, 80."""
    write_run(tmp_path / "a", 0)
    with serving(tmp_path) as server:
        for name in ("127.0.0.1", "localhost", "LocalHost:80", "127.0.0.1:8765", "[::1]", "[::1]:8765"):
            assert get(server, "/update", Host=name).status == 200, name
        for name in ("attacker.example", "attacker.example:80", "localhost.attacker.example", "[::2]", ":80", ""):
            assert get(server, "/update", Host=name).status == 403, name


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="needs the loopback of IPv6")
def test_the_page_is_served_at_the_loopback_of_ipv6(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    with serving(tmp_path, "::1") as server:
        assert get(server, "/").status == 200
        assert get(server, "/", Host="attacker.example").status == 403
        assert address_of("::1", 8765) == "http://[::1]:8765"


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.csv", "timing.csv", "embedding.json"])
def test_a_run_whose_files_are_half_written_stays_on_the_page(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 0)
    live = Live([tmp_path])
    before = live.now()[0]
    whole = (folder / name).read_bytes() if (folder / name).exists() else b'{"x": [1'
    for content in (b"", whole[: len(whole) // 2], b"\xff\x00", b"[]", b"{"):
        (folder / name).write_bytes(content)
        assert 'data-line="a"' in live.now()[0]
    (folder / name).write_bytes(whole)
    if name != "embedding.json":
        assert live.now()[0] == before


def test_runs_that_begin_and_folders_that_vanish_change_the_page(tmp_path: Path) -> None:
    live = Live([tmp_path / "runs"])
    (tmp_path / "runs").mkdir()
    assert "data-line" not in live.now()[0].partition("<script")[0]
    folder = write_run(tmp_path / "runs/a", 0, ended=False)
    assert 'data-line="a"' in live.now()[0]
    folder.rename(tmp_path / "b")
    assert 'data-line="a"' not in live.now()[0]
    (tmp_path / "b").rename(tmp_path / "runs/a")
    assert 'data-line="a"' in live.now()[0]
    shutil.rmtree(tmp_path / "runs")
    assert 'data-line="a"' not in live.now()[0]


def test_a_page_that_is_the_same_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", 0)
    live = Live([tmp_path])
    page = live.now()
    monkeypatch.setattr("cl.report_page.serve.page_text", None)
    assert live.now() == page


def test_the_page_allows_requests_to_its_own_server_only(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', Live([tmp_path]).now()[0])
    assert "connect-src &#39;self&#39;" in policy


def test_a_port_that_is_taken_and_a_folder_that_is_missing_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server, pytest.raises(UserError, match=f"--port: got {server.server_port} on 127.0.0.1"):
        main([str(tmp_path), "--serve", "--port", str(server.server_port)])
    with pytest.raises(UserError, match=r"--port: got 99999"):
        main([str(tmp_path), "--serve", "--port", "99999"])
    with pytest.raises(UserError, match=r"folders: got .*missing"):
        main([str(tmp_path / "missing"), "--serve"])
