"""The quick start's result means something: its features beat the same backbone at random initialisation.

Linear probe on ten labels a class, tested on the held-out split; mean over ten draws of the labelled images.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from cl.backbones import Backbone, build_backbone
from cl.config.backbone import BackboneConfig
from cl.data.datasets import digits
from cl.data.loader import EvalReader
from cl.data.view_spec import EvalSpec
from tests.conftest import Run

LABELS, DRAWS = 10, 10
SPLITS = digits()


def evaluation_images() -> list[torch.Tensor]:
    """Training and held-out images as the backbone sees them in evaluation."""
    readers = [EvalReader(images, EvalSpec(8), SPLITS.norm) for images in (SPLITS.train, SPLITS.val)]
    return [r.__getitems__([(0, i) for i in range(len(r.images))]).views[0][0] for r in readers]


def features(backbone: Backbone) -> list[np.ndarray]:
    with torch.no_grad():
        return [backbone.eval()(images).numpy() for images in evaluation_images()]


def untrained(seed: int, calibrated: bool) -> Backbone:
    """A random backbone; `calibrated` gives its batch norms the statistics of the training images, a fairer start."""
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig("resnet18"), 8)
    if calibrated:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain average
        with torch.no_grad():
            backbone.train()(evaluation_images()[0])
    return backbone


def few_label_accuracy(train: np.ndarray, held_out: np.ndarray) -> float:
    found = []
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        of_class = [np.flatnonzero(SPLITS.train.targets == c) for c in range(10)]
        chosen = np.concatenate([generator.permutation(each)[:LABELS] for each in of_class])
        scale = StandardScaler().fit(train[chosen])
        probe = LogisticRegression(max_iter=2000).fit(scale.transform(train[chosen]), SPLITS.train.targets[chosen])
        found.append(probe.score(scale.transform(held_out), SPLITS.val.targets))
    return float(np.mean(found))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_beats_its_random_initialisation_by_five_points(run: Run, folder: Path) -> None:
    code, out, err = run("main_contrastive.py", "digits", "resnet18", "--run_id", "quick")
    assert (code, err) == (0, "")
    print(out)
    trained = build_backbone(BackboneConfig("resnet18"), 8)
    weights = torch.load(folder / "trained_models/quick/last.ckpt", weights_only=True)["state_dict"]
    trained.load_state_dict({key[9:]: value for key, value in weights.items() if key.startswith("backbone.")})
    ours = few_label_accuracy(*features(trained))
    starts = [(seed, calibrated) for seed in range(3) for calibrated in (False, True)]
    random = {start: round(few_label_accuracy(*features(untrained(*start))), 3) for start in starts}
    pixels = few_label_accuracy(*(images[:, 0].flatten(1).numpy() for images in evaluation_images()))
    print(
        f"{LABELS} labels a class: pretrained {ours:.3f}, raw pixels {pixels:.3f}, random (seed, calibrated) {random}"
    )
    assert ours >= max(random.values()) + 0.05
