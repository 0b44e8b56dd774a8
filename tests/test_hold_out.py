"""`--hold_out`: which training images become validation images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cl.config.data import DataConfig
from cl.data.sources.registry import load
from cl.data.splitting import near_duplicates
from cl.data.splitting.hold_out import held_out_count, held_out_rows
from cl.data.splitting.near_duplicates import group_of
from cl.errors import UserError
from tests.conftest import TINY, Run
from tests.pictures import plain, write_classes


def thumbs(*groups: int) -> np.ndarray:
    """Thumbnails of groups of near duplicates; different groups are orthogonal."""
    return np.eye(len(groups), dtype=np.float32)[np.repeat(np.arange(len(groups)), groups)]


@pytest.mark.parametrize(
    ("images", "wanted", "count"),
    [(10_000, 0.1, 1000), (2000, 0.1, 300), (840, 0.1, 300), (500, 0.1, 250), (90, 0.1, 45), (5000, 400, 400),
     (5000, 10, 300), (400, 1000, 200)],
)  # fmt: skip
def test_at_least_300_images_are_held_out_where_there_are_twice_as_many(images: int, wanted: float, count: int) -> None:
    assert held_out_count(images, wanted) == count


def test_a_burst_lies_on_one_side_and_every_class_keeps_its_share() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(1, 9, 200)
    label = np.repeat(generator.integers(0, 4, 200), groups)
    group = np.repeat(np.arange(200), groups)
    held = held_out_rows(thumbs(*groups), label, 300)
    rest = np.setdiff1d(np.arange(len(label)), held)
    assert not set(group[held]) & set(group[rest])
    assert 300 <= len(held) <= 340
    shares = np.bincount(label[held]) / np.bincount(label)
    assert np.ptp(shares) < 0.1
    assert (held_out_rows(thumbs(*groups), label, 300) == held).all()


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    angles = np.deg2rad(20.0 * np.arange(6))  # cosine of neighbours 0.94, of all others at most 0.77
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert group_of(chain, 2, limit=10).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(group_of(chain, 0, limit=2)) == 3  # the search ends early


def test_a_class_never_loses_all_of_its_images() -> None:
    label = np.array([0] * 50 + [1] * 3 + [2])
    held = held_out_rows(thumbs(*[1] * 50, 3, 1), label, 27)
    assert set(label[held]) == {0}  # the three images of class 1 are a burst


def test_photographs_of_a_burst_are_found_and_different_ones_are_not(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 30})
    first = plain(999, 200, 240)
    burst = [
        first,
        ImageEnhance.Brightness(first).enhance(0.85),
        first.crop((5, 4, 240, 200)),
        first.resize((120, 100)),
    ]
    for number, image in enumerate(burst):
        image.save(tmp_path / f"a/burst{number}.jpg", quality=70)
    images = load(DataConfig("custom", train_dir=str(tmp_path))).train
    found = near_duplicates.thumbnails(images)
    assert group_of(found, 30, limit=100).tolist() == [30, 31, 32, 33]
    assert [len(group_of(found, row, limit=100)) for row in range(30)] == [1] * 30


def test_images_that_are_all_alike_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(8):
        plain(1).save(tmp_path / f"a/{number}.png")
    with pytest.raises(UserError, match=r"--hold_out: got 0.5 of 8 images, .* near duplicates of each other"):
        load(DataConfig("custom", train_dir=str(tmp_path), hold_out=0.5))


def test_kept_thumbnails_are_made_anew_when_a_file_changes_or_they_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_classes(tmp_path / "t", {"a": 4})
    images = load(DataConfig("custom", train_dir=str(tmp_path / "t"))).train
    first = near_duplicates.thumbnails(images)
    (kept,) = (tmp_path / "cache/cl").glob("thumbnails-*")
    kept.write_bytes(kept.read_bytes()[:100])
    assert (near_duplicates.thumbnails(images) == first).all()
    plain(77).save(tmp_path / "t/a/000.jpg")
    assert not np.allclose(near_duplicates.thumbnails(images)[0], first[0])


def test_both_programs_hold_out_the_same_images_with_any_loader(run: Run, folder: Path) -> None:
    write_classes(folder / "train", {"a": 20, "b": 20})
    Image.open(folder / "train/a/000.jpg").resize((200, 220)).save(folder / "train/a/000.jpg")  # sizes vary
    flags = ["custom", "resnet18", "--train_dir", "train", "--hold_out", "0.2", "--crop_size", "16"]
    common = ["--batch_size", "8", "--max_steps", "1", "--num_workers", "0"]
    for name, *others in (
        ["plain"],
        ["cached", "--cache", "raw256", "--cache_dir", "c"],
        ["reference", "--loader", "torchvision"],
    ):
        more = [*TINY[:-2], "--gaussian_prob", "0", "--run_id", name, *others]
        assert run("main_contrastive.py", *flags, *common, *more)[0] == 0
    lists = {(folder / f"trained_models/{name}/held_out.txt").read_text() for name in ("plain", "cached", "reference")}
    assert len(lists) == 1
    code, out, err = run("main_linear.py", *flags, *common, "--pretrained_feature_extractor", "trained_models/plain")
    assert (code, err) == (0, "")
    assert "20 for training, 20 for validation" in out
