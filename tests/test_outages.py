"""Only what was read and found bad is remembered: an outage is retried, then named, and forgotten when it is over."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cl.config.data import DataConfig
from cl.data.decoding import decode
from cl.data.images import FileSet
from cl.data.sources import manifest
from cl.data.sources.names import FileNames
from cl.data.sources.registry import load
from cl.errors import Stopped, UserError
from tests.conftest import Run
from tests.pictures import write_classes
from tests.test_folders import PRETRAIN, SHORT

NAMES = [f"ant/{i:03d}.jpg" for i in range(6)]
OUTAGES = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENOMEM)
LASTING = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP)


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(decode, "PAUSES", (0.0, 0.0, 0.0))
    return write_classes(folder / "data", {"ant": 6, "bee": 6})


Fail = Callable[[int, str, int], list[str]]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let the next `times` reads of files whose path contains `part` fail; returns the list of reads."""

    def start(code: int, part: str, times: int) -> list[str]:
        reads: list[str] = []
        original = Path.read_bytes

        def read(path: Path) -> bytes:
            reads.append(path.name)
            if part in str(path) and sum(part in name for name in reads) <= times:
                raise OSError(code, os.strerror(code), str(path))
            return original(path)

        monkeypatch.setattr(Path, "read_bytes", read)
        return reads

    return start


@pytest.mark.parametrize("code", OUTAGES)
def test_a_read_that_fails_for_a_moment_is_tried_again(code: int, data: Path, fail: Fail) -> None:
    reads = fail(code, "002.jpg", 3)
    assert manifest.bad_files(data, NAMES, 3) == {}
    assert reads.count("002.jpg") == 4


@pytest.mark.parametrize("code", OUTAGES)
def test_a_look_up_that_fails_for_a_moment_is_tried_again(
    code: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = Path.stat
    failures = iter(range(4))

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.name == "002.jpg" and next(failures, None) is not None:
            raise OSError(code, os.strerror(code), str(path))
        return look_up(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert manifest.bad_files(data, NAMES, 3) == {}


@pytest.mark.parametrize("code", OUTAGES)
def test_an_outage_is_named_and_not_remembered(code: int, data: Path, fail: Fail) -> None:
    fail(code, "002.jpg", len(decode.PAUSES) + 1)
    with pytest.raises(UserError, match=f"002.jpg: cannot be read \\({os.strerror(code)}\\), which is no fault"):
        manifest.bad_files(data, NAMES, 3)
    assert manifest.bad_files(data, NAMES, 3) == {}


def test_after_an_outage_every_class_is_there_and_what_was_read_is_remembered(data: Path, fail: Fail) -> None:
    config = DataConfig(dataset="custom", train_dir="data")
    fail(errno.ESTALE, "003.jpg", len(decode.PAUSES) + 1)
    with pytest.raises(UserError, match="Stale file handle"):
        load(config)
    with np.load(manifest.manifest_path(data, 3)) as saved:
        assert list(FileNames(saved["text"], saved["ends"])) == NAMES[:3]
    found = load(config)
    assert (len(found.train), found.classes, found.bad) == (12, ("ant", "bee"), {})


@pytest.mark.parametrize("code", LASTING)
def test_a_file_that_may_not_be_read_is_listed_but_not_remembered(code: int, data: Path, fail: Fail) -> None:
    reads = fail(code, "002.jpg", 1)
    assert manifest.bad_files(data, NAMES, 3) == {"ant/002.jpg": f"cannot be read: {os.strerror(code)}"}
    assert reads.count("002.jpg") == 1
    assert manifest.bad_files(data, NAMES, 3) == {}
    assert reads.count("000.jpg") == 1


def die(path: Path, channels: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_check_whose_process_is_killed_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SERIAL_LIMIT", 0)
    monkeypatch.setattr(manifest, "check_file", die)
    with pytest.raises(Stopped, match=r"a process that checked the images of .*data/ant was killed"):
        manifest.bad_files(data, NAMES, 3)


def test_a_lack_of_memory_is_not_remembered(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(decode, "_plain_jpeg", lambda *_: None)
        patch.setattr(decode, "to_8_bits", too_large)
        assert manifest.bad_files(data, NAMES, 3) == dict.fromkeys(NAMES, "not enough memory to decode it")
    assert manifest.bad_files(data, NAMES, 3) == {}


def test_a_pipe_or_folder_with_the_name_of_an_image_is_listed_and_not_waited_for(data: Path) -> None:
    os.mkfifo(data / "ant/pipe.jpg")
    assert manifest.bad_files(data, ["ant/pipe.jpg"], 3) == {"ant/pipe.jpg": "not a regular file"}


def test_a_file_larger_than_any_image_is_not_read(data: Path, fail: Fail) -> None:
    os.truncate(data / "ant/002.jpg", 3 * 2**30)
    reads = fail(0, "nothing", 0)
    assert list(manifest.bad_files(data, NAMES, 3).values()) == ["a file of 3221225472 bytes, more than 268435456"]
    assert "002.jpg" not in reads


def test_colour_and_grey_are_checked_separately(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(manifest, "read_image", lambda path, channels: asked.append(channels))
    for channels in (1, 3, 1, 3):
        manifest.bad_files(data, NAMES[:1], channels)
    assert asked == [1, 3]


def test_a_read_during_training_is_tried_again(data: Path, fail: Fail) -> None:
    images = FileSet(data, NAMES, np.zeros(6, np.int64), 3)
    expected = images.read(2)
    for read in (images.read, lambda index: images.open(index).pixels()):
        fail(errno.EIO, "002.jpg", 2)
        assert torch.equal(read(2), expected)


def test_a_file_that_breaks_between_the_check_and_the_first_step_is_named(
    data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and std are measured there."""
    monkeypatch.setattr("cl.data.sources.folders.bad_files", lambda *_: {})
    (data / "ant/003.jpg").write_bytes(b"no longer an image")
    code, out, err = run(PRETRAIN, *SHORT, "--train_dir", "data")
    assert (code, out) == (1, "")
    assert err == "stopped: data/ant/003.jpg: not an image\n"


def test_an_outage_ends_a_run_that_trusts_its_files(data: Path, run: Run, fail: Fail) -> None:
    """A file that may be read later is not replaced."""
    (data / "ant/001.jpg").write_bytes(b"no image")
    fail(errno.EIO, "003.jpg", 1000)
    code, _, err = run(PRETRAIN, *SHORT, "--train_dir", "data", "--bad_images", "trust")
    assert code == 1
    assert "data/ant/003.jpg: [Errno 5]" in err
