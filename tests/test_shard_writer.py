"""`python -m cl.data.shard`: shards of any images, in their order, complete or absent."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cl.data import check
from cl.data.shard import writer
from cl.data.shard.__main__ import bytes_of, main
from cl.errors import UserError
from tests.conftest import ROOT
from tests.pictures import plain, write_classes
from tests.shards import contents, custom


@pytest.fixture
def data(folder: Path) -> Path:
    write_classes(folder / "data", {"10": 5, "9": 5, os.fsdecode(b"b\xff"): 5})
    odd = folder / "data/9"
    for name in ("a.b.jpg", "a.c.JPG", "a.png", "100%.jpg", os.fsdecode(b"\xe9.jpg")):
        plain(len(name)).save(odd / name, "PNG")
    (odd / "deep").mkdir()
    (odd / "deep/no.image.jpg").write_bytes(b"not an image")
    (odd / "gone.jpg").symlink_to("nowhere")
    return folder / "data"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_have_the_images_classes_and_order_of_the_folder(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "out", "--size", "8KB"])
    out = capsys.readouterr().out
    assert "left out: data/9/gone.jpg: cannot be read: No such file or directory\n" in out
    shards = sorted(Path("out").glob("*.tar"))
    assert out.endswith(f"21 images in {len(shards)} shards: --train_dir 'tar/out/*.tar'\n")
    assert len(shards) > 3
    assert all(path.stat().st_size <= 20480 for path in shards)  # tar fills up to 10240 bytes
    folder, packed = custom("data"), custom("tar/out/*.tar")
    assert contents(packed) == contents(folder)
    assert packed.classes == folder.classes
    assert (packed.norm, len(packed.bad)) == (folder.norm, 1)
    assert subprocess.run("sha256sum -c --quiet *.sha256", shell=True, cwd="out").returncode == 0


def test_shards_of_shards_and_of_labelled_files_are_the_same_images(data: Path) -> None:
    main(["data", "out", "--size", "8KB"])
    main(["tar/out/*.tar", "again", "--size", "1GiB"])
    assert contents(custom("tar/again/*.tar")) == contents(custom("data"))
    flat = Path("flat")
    flat.mkdir()
    for i in range(3):
        plain(i).save(flat / f"{i}.jpg")
    Path("labels.csv").write_text("0.jpg,x\n2.jpg,y\n")
    main(["flat", "of_flat", "--labels", "labels.csv"])
    found = custom("tar/of_flat/*.tar")
    assert (found.classes, found.train.targets.tolist()) == (("x", "y"), [0, -1, 1])


@pytest.mark.parametrize("write", range(1, 12, 2))
def test_after_a_kill_the_same_command_ends_with_the_same_shards(
    write: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["data", "whole", "--size", "8KB"])
    writes = iter(range(1000))

    class Killed(BaseException):
        pass

    def dying(source: object, target: object) -> None:
        if next(writes) == write:
            raise Killed
        os.rename(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "replace", dying)
        with pytest.raises(Killed):
            main(["data", "out", "--size", "8KB"])
    whole = files(Path("whole"))
    assert all(whole[name] == content for name, content in files(Path("out")).items() if not name.startswith("."))
    main(["data", "out", "--size", "8KB"])
    assert files(Path("out")) == whole


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_no_half_shard(data: Path) -> None:
    main(["data", "whole", "--size", "4KB"])
    command = [sys.executable, "-m", "cl.data.shard", "data", "out", "--size", "4KB"]
    for _ in range(3):
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        while process.poll() is None and not any(Path("out").glob("*.tar")):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = files(Path("whole"))
        assert all(whole[path.name] == path.read_bytes() for path in Path("out").glob("*.tar"))
    main(["data", "out", "--size", "4KB"])
    assert files(Path("out")) == files(Path("whole"))


def test_other_images_or_sizes_are_not_mixed_into_a_folder_of_shards(data: Path) -> None:
    main(["data", "out", "--size", "8KB"])
    with pytest.raises(UserError, match="OUT: got out, which has shards of other images or another --size"):
        main(["data", "out", "--size", "9KB"])
    plain(99).save(data / "10/new.jpg")
    with pytest.raises(UserError, match="which has shards of other images"):
        main(["data", "out", "--size", "8KB"])
    (Path("out") / writer.ABOUT).unlink()
    with pytest.raises(UserError, match="which has shards of another program"):
        main(["data", "out"])


def test_check_verifies_the_checksums(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data / "9")
    main(["data", "out"])
    with pytest.raises(SystemExit) as end:
        check.main(["tar/out/*.tar"])
    assert end.value.code == 0
    Path("out/shard-000000.tar.sha256").write_text("0" * 64 + "  shard-000000.tar\n")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        check.main(["tar/out/*.tar"])
    assert end.value.code == 1
    assert "out/shard-000000.tar: its SHA-256 is " in capsys.readouterr().out


def test_sizes_are_bytes_or_have_a_unit() -> None:
    assert [bytes_of(text) for text in ("512MB", "1GiB", "7", "3 kb")] == [512_000_000, 2**30, 7, 3000]
    for text in ("0", "big", "5XB", "-1MB", "1.5GB"):
        with pytest.raises(UserError, match=r"--size: got .*, expected a number of bytes above 0"):
            bytes_of(text)


def test_what_cannot_be_written_is_one_line(data: Path) -> None:
    with pytest.raises(UserError, match="FOLDER: got nowhere, expected a folder of images"):
        main(["nowhere", "out"])
    Path("file").write_text("")
    with pytest.raises(UserError, match="OUT: got file/out, expected a folder that can be written to"):
        main(["data", "file/out"])
    (data / "9").rename(data / "-1")
    with pytest.raises(UserError, match="FOLDER: got a class called '-1', which a shard cannot tell from no label"):
        main(["data", "out"])
