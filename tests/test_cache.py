"""--cache: smaller copies with the right pixels, written once and never partially."""

import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from cl.data import cache
from cl.data.cache import cached, shrink
from cl.data.decoding.decode import decode
from cl.data.images import FileSet
from tests.conftest import TINY, Run
from tests.pictures import plain, write_classes

KINDS = ("raw256", "jpeg256")
NAMES = ["tall.jpg", "wide.jpg", "small.png"]


@pytest.fixture
def images(tmp_path: Path) -> FileSet:
    (tmp_path / "images").mkdir()
    for name, size in zip(NAMES, [(520, 300), (300, 900), (40, 48)], strict=True):
        plain(len(name), *size).save(tmp_path / "images" / name)
    return FileSet(tmp_path / "images", NAMES, np.array([0, 1, -1]), 3)


def test_large_images_shrink_to_a_short_side_of_256_and_small_ones_are_kept(images: FileSet) -> None:
    shapes = [tuple(shrink(images.read(i)).shape[1:]) for i in range(3)]
    assert shapes == [(443, 256), (256, 768), (40, 48)]
    wide = images.read(1)
    expected = F.interpolate(wide[None].float(), (256, 768), mode="bilinear", antialias=True)[0]
    assert (shrink(wide).float() - expected).abs().mean() < 0.35
    assert torch.equal(shrink(images.read(2)), images.read(2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_returns_the_shrunk_images(images: FileSet, kind: str, channels: int, tmp_path: Path) -> None:
    images = FileSet(images.root, NAMES, images.targets, channels)
    copies = cached(images, kind, str(tmp_path / "cache"), workers=2)
    assert len(copies) == 3
    assert copies.targets is images.targets
    for i in range(3):
        image, expected = copies.read(i), shrink(images.read(i))
        assert image.dtype == torch.uint8
        assert image.shape == expected.shape
        difference = (image.float() - expected.float()).abs()
        assert difference.max() == 0 if kind == "raw256" else difference.mean() < 3
        assert copies.name(i) == NAMES[i]
        encoded = copies.encoded(i)
        assert torch.equal(decode(encoded.data, channels), image)
        assert (encoded.height, encoded.width) == tuple(image.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_is_rebuilt_only_when_an_image_or_the_cache_has_changed(
    images: FileSet, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: written.append(kind) or original(*args))
    for _ in range(2):
        cached(images, kind, str(tmp_path / "cache"), workers=0)
    assert len(written) == 1
    plain(77, 300, 300).save(images.root / "wide.jpg")
    assert cached(images, kind, str(tmp_path / "cache"), workers=0).read(1).shape == (3, 256, 256)
    assert len(written) == 2
    (pixels,) = (tmp_path / "cache").glob("*/pixels")
    pixels.write_bytes(pixels.read_bytes()[:-1])
    cached(images, kind, str(tmp_path / "cache"), workers=0)
    assert len(written) == 3
    for number, name in enumerate(("index.npy", "about.json")):
        (pixels.parent / name).write_bytes(b"")  # as a loss of power may leave it
        cached(images, kind, str(tmp_path / "cache"), workers=0)
        assert len(written) == 4 + number


def build(root: Path, folder: Path, count: int) -> None:
    """Build a cache in a forked process, with one thread: torch's threads do not survive a fork."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # a child killed with tqdm's lock for processes would block the parent for ever
    cached(file_set(root, count), "raw256", str(folder), workers=0)


def file_set(root: Path, count: int) -> FileSet:
    return FileSet(root, [f"a/{i:03d}.jpg" for i in range(count)], np.zeros(count, np.int64), 3)


def test_a_killed_build_leaves_no_incomplete_cache_that_a_run_would_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder, count = write_classes(tmp_path / "images", {"a": 300}), tmp_path / "cache", 300
    start = time.monotonic()
    build(root, tmp_path / "trial", count)
    duration = time.monotonic() - start
    interrupted, delays = 0, random.Random(0)
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=build, args=(root, folder, count))
        process.start()
        time.sleep(delays.uniform(0, duration))
        process.kill()
        process.join()
        caches = [path for path in folder.glob("raw256-*") if not path.name.endswith(".part")]
        interrupted += not caches
        for path in caches:  # a folder with the name of a cache is complete
            assert np.load(path / "index.npy")[-1, :2].sum() == (path / "pixels").stat().st_size
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    assert interrupted
    images = file_set(root, count)
    copies = cached(images, "raw256", str(folder), workers=0)
    assert all(torch.equal(copies.read(i), images.read(i)) for i in range(count))
    assert not list(folder.glob("*.part"))
    monkeypatch.setattr(cache, "_write", None)
    cached(images, "raw256", str(folder), workers=0)  # nothing is written: the cache is complete


def test_concurrent_builds_leave_one_cache(tmp_path: Path) -> None:
    root, folder = write_classes(tmp_path / "images", {"a": 100}), tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build, args=(root, folder, 100)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (path,) = folder.glob("raw256-*")
    inode = (path / "pixels").stat().st_ino
    build(root, folder, 100)
    assert (path / "pixels").stat().st_ino == inode


FLAGS = [
    "custom",
    "resnet18",
    "--train_dir",
    "images",
    *TINY,
    "--crop_size",
    "32",
    "--batch_size",
    "8",
    "--epochs",
    "1",
]


def test_a_run_with_a_cache_has_the_same_metrics(run: Run, folder: Path) -> None:
    write_classes(folder / "images", {"a": 12, "b": 12})
    rows = []
    for name, flags in {"files": [], "cache": ["--cache", "raw256", "--cache_dir", "small"]}.items():
        code, _, err = run("main_contrastive.py", *FLAGS, "--num_workers", "0", "--run_id", name, *flags)
        assert (code, err) == (0, "")
        rows.append((folder / f"trained_models/{name}/metrics.csv").read_bytes())
    assert rows[0] == rows[1]  # these images are smaller than 256 pixels
    assert len(list((folder / "small").glob("raw256-*/pixels"))) == 1


def test_a_cache_is_refused_for_large_views_and_where_it_cannot_be_written(run: Run, folder: Path) -> None:
    write_classes(folder / "images", {"a": 12})
    large_views = [*FLAGS, "--cache", "jpeg256"]
    large_views[large_views.index("32")] = "288"
    code, out, err = run("main_contrastive.py", *large_views)
    assert (code, out) == (2, "")
    assert err == "error: --cache: got jpeg256 with views of 288 pixels, expected at most 256\n"
    (folder / "file").write_text("in the way")
    code, out, err = run("main_contrastive.py", *FLAGS, "--cache", "jpeg256", "--cache_dir", "file")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --cache_dir: got file, expected a folder where the jpeg256 cache can be written")
    assert not (folder / "trained_models").exists()


def test_a_full_disk_raises_a_user_error_and_leaves_no_part(
    images: FileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.raises(cache.UserError, match="No space left"):
        cached(images, "raw256", str(tmp_path / "cache"), workers=0)
    assert not list((tmp_path / "cache").glob("raw256*"))
