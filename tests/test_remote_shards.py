"""`tar/https://...`: shards of a store that fails, stalls and cuts off are those on the disk, to the bit."""

import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cl.data.cache import cached
from cl.data.decoding.decode import BrokenFile
from cl.data.images import Splits, expect
from cl.data.sources.packed import block_cache, remote
from cl.data.sources.packed.patterns import matching_shards
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.kills import write_images
from tests.pictures import write_classes
from tests.remote_server import Server, serving
from tests.shards import as_shards, contents, custom, write_tar
from tests.test_shard_runs import OF_FOLDER, Life, metrics

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "TIMEOUT", 1.0)
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.02, 0.05))
    monkeypatch.setattr(remote, "ASKING", remote.Asking())
    yield
    if remote.ASKING._process is not None:
        remote.ASKING._process.communicate()


@pytest.fixture
def data(folder: Path) -> Path:
    write_classes(folder / "data/train", {"a": 12, "b": 12})
    as_shards(folder / "data/train", folder / "data/shards")
    return folder / "data"


def shuffled_contents(splits: Splits) -> list[tuple[bytes, int]]:
    """As a loader reads them: in another order, the first ones asked for ahead."""
    order = np.random.default_rng(0).permutation(len(splits.train)).tolist()
    expect(splits.train, order[:10])
    return contents(splits, order)


@pytest.mark.parametrize("every", [0, 10])
def test_remote_shards_are_those_on_the_disk_however_requests_fail(every: int, data: Path) -> None:
    local = custom("tar/data/shards/*.tar")
    with serving(data, every) as server:
        found = custom(f"tar/{server.url}/shards/{{000..002}}.tar")
        assert shuffled_contents(found) == shuffled_contents(local)
        assert (found.classes, found.norm, found.bad) == (local.classes, local.norm, {})
        assert (server.failed > 0) == (every > 0)


def test_the_index_is_kept_and_a_shard_that_changed_is_noticed(data: Path) -> None:
    with serving(data) as server:
        pattern = f"tar/{server.url}/shards/{{000..002}}.tar"
        train = custom(pattern, mean=(0.5,) * 3, std=(0.5,) * 3).train
        server.asked.clear()
        custom(pattern, mean=(0.5,) * 3, std=(0.5,) * 3, bad_images="trust")
        assert sorted(server.asked) == [f"/shards/{number:03d}.tar" for number in range(3)]  # one look at each
        as_shards(data / "train", data / "shards")
        with pytest.raises(BrokenFile, match=r"002.tar: the shard is missing or has changed since it was indexed"):
            train.read(23)
        (data / "shards/001.tar").unlink()
        with pytest.raises(BrokenFile, match=r"001.tar: the shard is missing"):
            pickle.loads(pickle.dumps(train)).read(9)


def test_a_start_from_another_folder_reads_nothing_again_and_messages_have_the_url(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(data / "shards/003.tar", [("a/bad.jpg", b"bad"), ("a/bad.cls", b"a")])
    with serving(data) as server:
        pattern = f"tar/{server.url}/shards/{{000..003}}.tar"
        norm = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "cache_dir": str(data / "copies")}
        first = custom(pattern, **norm)
        assert [str(path) for path in first.bad] == [f"{server.url}/shards/003.tar/a/bad.jpg"]
        copies = cached(first.train, "raw256", str(data / "copies"), workers=0)
        server.asked.clear()
        monkeypatch.chdir(data)
        again = custom(pattern, **norm)
        assert again.bad == first.bad
        assert cached(again.train, "raw256", str(data / "copies"), workers=0).fingerprint() == copies.fingerprint()
        assert sorted(server.asked) == [f"/shards/{number:03d}.tar" for number in range(4)]  # one look at each
        with pytest.raises(UserError, match=rf"--val_dir: got tar/{server.url}/shards/003.tar, expected readable"):
            custom(f"tar/{server.url}/shards/000.tar", val_dir=f"tar/{server.url}/shards/003.tar")


def test_a_store_that_stays_away_is_one_line(data: Path, run: Run) -> None:
    with serving(data) as server:
        train = custom(f"tar/{server.url}/shards/{{000..002}}.tar").train
        server.every = 1
        with pytest.raises(BrokenFile, match=r"000.tar/a/000.jpg: ") as refusal:
            train.read(0)
        assert "\n" not in str(refusal.value)
        flags = ["custom", "resnet18", *TINY, "--train_dir", f"tar/{server.url}/shards/000.tar"]
        code, out, err = run("main_contrastive.py", *flags)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "000.tar, expected a readable shard (" in err
    with pytest.raises(UserError, match="expected a readable shard"):
        custom(f"tar/{server.url}/shards/000.tar")


def at(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The buckets of s3:// are the folders of a server."""
    for name, value in {"ENDPOINT_URL": server.url, "SKIP_SIGNATURE": "true", "REGION": "local"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


GLOBS = [
    *("data/*.tar", "data/*/*.tar", "data/**/*.tar", "data/**", "data/**.tar", "data/sub/**/e.tar", "**/d*/e.tar"),
    *("d*/[ab].tar", "data/.?.tar", "data/.*/f.tar", "data/x[[]1].tar", "data/{a,sub/d}*"),
]


def test_a_glob_of_a_bucket_takes_what_it_would_take_of_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tar", "b.tar", "c.txt", "sub/d.tar", "sub/deep/e.tar", ".hidden/f.tar", ".g.tar", "x[1].tar"):
        write_tar(folder / "bucket/data" / name, [])
    with serving(folder) as server:
        at(server, monkeypatch)
        for glob in GLOBS:
            found = matching_shards(f"s3://bucket/{glob}", "--train_dir")
            assert found == [f"s3://{path}" for path in matching_shards(f"bucket/{glob}", "--train_dir")], glob


def test_shards_of_a_bucket_are_those_on_the_disk(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(data) as server:
        at(server, monkeypatch)
        assert shuffled_contents(custom("tar/s3://shards/*.tar")) == shuffled_contents(custom("tar/data/shards/*.tar"))


def test_a_bucket_that_cannot_be_listed_is_one_line(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder) as server:
        at(server, monkeypatch)
        for train_dir in ("tar/s3://missing/*.tar", "tar/s3://buck*/000.tar", "tar/s3://*.tar"):
            code, out, err = run("main_contrastive.py", "custom", "resnet18", *TINY, "--train_dir", train_dir)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert f"--train_dir: got {train_dir}, expected a bucket that can be listed (" in err
    with pytest.raises(UserError, match=r"s3://bucket/\*.tar, expected a bucket that can be listed \("):
        custom("tar/s3://bucket/*.tar")


def test_what_cannot_be_listed_or_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"expected shards by number, such as \{000..127\}: a web server cannot be"):
        custom("tar/https://example.org/*.tar")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="but obstore is not installed; expected pip install obstore"):
        custom("tar/https://example.org/000.tar")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, "0"), (1, "2"), (2, "0"), (2, "2")])
def test_a_run_on_a_failing_store_is_that_on_the_folder_killed_or_not(
    processes: int, workers: str, folder: Path
) -> None:
    write_images(folder)
    for part in ("train", "val"):
        as_shards(folder / part, folder / f"{part}_shards")
    how = ("--num_workers", workers, "--epochs", "1", "--checkpoint_every_n_steps", "1")
    expected = metrics(folder, Life(OF_FOLDER, processes, how), "folder")
    with serving(folder, every=10) as server:
        url = f"tar/{server.url}"
        of_store = ("--train_dir", f"{url}/train_shards/{{000..002}}.tar")
        of_store += ("--val_dir", f"{url}/val_shards/{{000..002}}.tar")
        assert metrics(folder, Life(of_store, processes, how), "remote", kills=1) == expected
        assert server.failed > 5


def test_a_cache_keeps_blocks_whole_within_its_limit(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (block_cache, remote):
        monkeypatch.setattr(module, "BLOCK", 1000)
    local = custom("tar/data/shards/*.tar")
    norm = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "bad_images": "trust", "cache_dir": "kept"}
    with serving(data, every=10) as server:
        pattern = f"tar/{server.url}/shards/{{000..002}}.tar"
        assert shuffled_contents(custom(pattern, remote_cache=0.001, **norm)) == shuffled_contents(local)
        files = [path for path in Path("kept/remote").rglob("*") if path.is_file()]
        assert max(path.stat().st_size for path in files) == 1000
        server.asked.clear()
        found = custom(pattern, remote_cache=0.001, **norm)
        assert shuffled_contents(found) == shuffled_contents(local)
        assert len(server.asked) < 10  # a look at each shard, for the index
        next(iter(files)).write_bytes(b"half")
        assert shuffled_contents(found) == shuffled_contents(local)
        small = custom(pattern, remote_cache=1e-5, **norm)  # ten blocks
        assert shuffled_contents(small) == shuffled_contents(local)
        assert sum(path.stat().st_size for path in Path("kept/remote").rglob("*") if path.is_file()) <= 10_000
