"""CIFAR and STL-10 from torchvision's archives, and ImageNet-100 linked from ImageNet."""

import hashlib
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from cl.config.data import DataConfig
from cl.data import imagenet100, imagenet_val
from cl.data.sources.registry import load
from cl.errors import UserError
from tests.conftest import ROOT, TINY, Run


def write_file(file: Path, content: bytes) -> str:
    """Write a file and return its MD5, which replaces that of the real archive."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-10's files with twenty images in each batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3072), dtype=np.uint8)
    root = folder / "datasets/cifar-10-batches-py"
    dataset = datasets.CIFAR10
    for names in (dataset.train_list, dataset.test_list):
        checksums = []
        for name, _ in names:
            rows = pixels[:20] if name == "test_batch" else pixels[20 * int(name[-1]) :][:20]
            content = {"data": rows, "labels": (np.arange(20) % 10).tolist()}
            checksums.append([name, write_file(root / name, pickle.dumps(content))])
        monkeypatch.setattr(dataset, "train_list" if len(names) > 1 else "test_list", checksums)
    meta = {"label_names": [f"class{i}" for i in range(10)]}
    monkeypatch.setitem(dataset.meta, "md5", write_file(root / "batches.meta", pickle.dumps(meta)))
    return pixels


def test_an_archive_is_read_with_its_official_split(cifar10: np.ndarray) -> None:
    splits = load(DataConfig(dataset="cifar10"))
    assert splits.val is not None
    assert (len(splits.train), len(splits.val)) == (100, 20)
    assert splits.classes == tuple(f"class{i}" for i in range(10))
    assert np.array_equal(splits.val.read(3).numpy(), cifar10[3].reshape(3, 32, 32))
    assert np.array_equal(splits.train.read(0).numpy(), cifar10[20].reshape(3, 32, 32))
    grey = load(DataConfig(dataset="cifar10", in_channels=1))
    assert grey.train.read(0).shape == (1, 32, 32)
    assert len(grey.norm[0]) == 1


def test_a_run_trains_on_an_archive(cifar10: np.ndarray, run: Run) -> None:
    code, out, err = run("main_contrastive.py", "cifar10", "resnet18", *TINY, "--fast_dev_run", "--num_workers", "0")
    assert (code, err) == (0, "")
    assert "100 for training, 20 for validation, 10 classes" in out


def test_unlabelled_images_of_stl10_have_target_minus_1(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stl10:
        filename, url, classes = "stl10_binary.tar.gz", "http://somewhere", ["a", "b"]

        def __init__(self, root: Path, split: str, download: bool) -> None:
            count = 6 if split == "test" else 10
            self.data = np.zeros((count, 3, 96, 96), np.uint8)
            labels = np.arange(count, dtype=np.uint8) % 2
            self.labels: Any = labels if split == "test" else np.concatenate((labels[:4], np.asarray([-1] * 6)))

    monkeypatch.setattr(datasets, "STL10", Stl10)
    splits = load(DataConfig(dataset="stl10"))
    assert splits.train.targets.tolist() == [0, 1, 0, 1] + [-1] * 6
    assert splits.labelled().train.targets.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_without_a_network_the_error_names_the_file_and_its_folder(
    name: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    for module in ("cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    code, out, err = run("main_contrastive.py", name, "resnet18")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert getattr(datasets, name.upper()).filename in err
    assert "datasets" in err
    assert "--train_dir" in err
    assert list(folder.iterdir()) == []


def test_a_damaged_archive_is_refused(cifar10: np.ndarray, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    (folder / "datasets/cifar-10-batches-py/data_batch_3").write_bytes(b"half")
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz is not in datasets and could not be downloaded"):
        load(DataConfig(dataset="cifar10"))


def test_imagenet100_is_linked_from_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(set(imagenet100.CLASSES)) == 100
    for split in ("train", "val"):
        for name in [*imagenet100.CLASSES, "n00000000"]:
            (tmp_path / "imagenet" / split / name).mkdir(parents=True)
            (tmp_path / "imagenet" / split / name / "one.JPEG").write_bytes(split.encode())
    for _ in range(2):  # a second call changes nothing
        imagenet100.main([str(tmp_path / "imagenet"), str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == sorted(imagenet100.CLASSES)
    assert (tmp_path / "out/test" / imagenet100.CLASSES[0] / "one.JPEG").read_bytes() == b"val"
    assert "100 classes linked" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected class folders; 200 are missing"):
        imagenet100.main([str(tmp_path), str(tmp_path / "out")])
    link = tmp_path / "out/train" / imagenet100.CLASSES[7]
    link.unlink()
    (tmp_path / "out/file").write_text("")
    for make in (link.mkdir, lambda: link.symlink_to(tmp_path), lambda: link.symlink_to(tmp_path / "missing")):
        make()
        with pytest.raises(UserError, match=f"OUT: got .*, expected a new folder.* it has train/{link.name}$"):
            imagenet100.main([str(tmp_path / "imagenet"), str(tmp_path / "out")])
        link.unlink() if link.is_symlink() else link.rmdir()
    with pytest.raises(UserError, match=r"OUT: got .*, where no links can be made \(Not a directory\)"):
        imagenet100.main([str(tmp_path / "imagenet"), str(tmp_path / "out/file")])


KAGGLE = "ImageId,PredictionString\n" + "".join(f"val_{i},n0{i % 2} 85 1 499 272 \n" for i in (1, 2, 3))
OWN = "".join(f"val_{i}.JPEG,n0{i % 2}\n" for i in (1, 2, 3))


@pytest.mark.parametrize("labels", [KAGGLE, OWN])
def test_imagenets_flat_validation_images_are_sorted(
    labels: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "val").mkdir()
    for i in (1, 2, 3):
        (folder / f"val/val_{i}.JPEG").write_bytes(bytes([i]))
    (folder / "labels.csv").write_text(labels)
    for _ in range(2):  # a second call changes nothing
        imagenet_val.main(["val", "labels.csv", "sorted"])
    assert "3 images linked into 2 class folders of sorted" in capsys.readouterr().out
    linked = {str(path.relative_to("sorted")): path.read_bytes() for path in Path("sorted").rglob("*.JPEG")}
    assert linked == {f"n0{i % 2}/val_{i}.JPEG": bytes([i]) for i in (1, 2, 3)}
    for out in ("val", "/proc/nowhere", "labels.csv"):
        with pytest.raises(UserError, match=f"OUT: got {out}, "):
            imagenet_val.main(["val", "labels.csv", out])
    (folder / "other.csv").write_text(labels.replace("n01", "n02"))
    with pytest.raises(UserError, match="OUT: got sorted, expected a new folder"):
        imagenet_val.main(["val", "other.csv", "sorted"])
    (folder / "sorted/n01/val_1.JPEG").unlink()
    (folder / "sorted/n01/val_1.JPEG").symlink_to(folder / "val/val_2.JPEG")  # a link to another image
    with pytest.raises(UserError, match="OUT: got sorted, expected a new folder"):
        imagenet_val.main(["val", "labels.csv", "sorted"])
    (folder / "val/one_more.JPEG").touch()
    with pytest.raises(UserError, match="1 have none: one_more"):
        imagenet_val.main(["val", "labels.csv", "sorted"])
    with pytest.raises(UserError, match="it has class folders already"):
        imagenet_val.main(["sorted", "labels.csv", "again"])
    (folder / "val/one_more.JPEG").unlink()
    (folder / "labels.csv").write_text(labels.replace("n01", "../up"))
    with pytest.raises(UserError, match=r"expected classes that can name a folder; there is \.\./up"):
        imagenet_val.main(["val", "labels.csv", "sorted"])


def test_the_class_list_equals_the_shared_one() -> None:
    shared = ROOT.parent / "shared/data/imagenet100_classes.txt"
    if not shared.exists():
        pytest.skip("the shared list exists only where the project is developed")
    assert shared.read_text().split() == imagenet100.CLASSES
