"""The main use on real images: class folders from a part of CIFAR-10, pretrained for 60 steps and evaluated."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run

SHARED = ROOT.parent / "shared/data/unpack.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not SHARED.exists(), reason="the images exist only where the project is developed")
def test_cifar10_folders_are_pretrained_and_evaluated(run: Run, folder: Path) -> None:
    subprocess.run([sys.executable, str(SHARED), "images", "--cifar10", "500", "100"], check=True)
    images = ["--data_folder", "images/cifar10", "--train_dir", "train", "--val_dir", "test"]
    start = time.perf_counter()
    flags = [*images, "--max_steps", "60", "--batch_size", "64"]
    code, out, err = run("main_contrastive.py", "cifar10", "resnet18", *flags, "--run_id", "main")
    print(f"{out}\n{time.perf_counter() - start:.0f} s")  # for the reader: timings never decide a test
    assert (code, err) == (0, "")
    summary = json.loads((folder / "trained_models/main/summary.json").read_text())
    assert summary["knn/val_top1"] > 0.2  # chance is 0.1
    # one epoch is twenty steps: the preset's rate of 0.3, meant for a hundred epochs, gives 13 % to 22 %
    flags = ["--epochs", "1", "--lr", "0.01", "--limit_eval", "500", "--run_id", "linear"]
    evaluate = [*images, "--pretrained_feature_extractor", "trained_models/main", *flags]
    code, out, err = run("main_linear.py", "cifar10", "resnet18", *evaluate)
    print(out)
    assert (code, err) == (0, "")
    summary = json.loads((folder / "trained_models/linear/summary.json").read_text())
    assert summary["offline_linear/val_top1"] > 0.15


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not SHARED.exists(), reason="the images exist only where the project is developed")
@pytest.mark.parametrize("loader", ["fast", "torchvision", "dali"])
def test_photographs_train_with_every_loader(run: Run, folder: Path, loader: str) -> None:
    """Images of 400 x 533 pixels, views 2 x 224 + 6 x 96, on a CPU: two steps, then an evaluation of 20 images."""
    subprocess.run([sys.executable, str(SHARED), "images", "--clothing"], check=True)
    images = ["--data_folder", "images/clothing", "--train_dir", "train", "--val_dir", "val", "--limit_eval", "20"]
    images += ["--loader", loader, "--batch_size", "8", "--max_steps", "2"]
    flags = ["--multicrop", "--width", "8", "--knn_bank", "20", "--run_id", "photographs"]
    code, out, err = run("main_contrastive.py", "custom", "resnet18", *images, *flags)
    print(out)
    assert (code, err) == (0, "")
    assert (folder / "trained_models/photographs/views.png").exists()
    evaluate = ["--pretrained_feature_extractor", "trained_models/photographs", "--run_id", "linear"]
    code, _, err = run("main_linear.py", "custom", "resnet18", *images, *evaluate)
    assert (code, err) == (0, "")
