"""Every method learns on digits: its features beat the same backbone at random initialisation by ten points.

A linear probe on ten labels per class, tested on the held-out split; the mean over ten draws of the labelled images. A
quarter-width network, seed 0, with the presets of the method, on one CPU in less than a minute.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cl
from cl.backbones import Backbone, build_backbone
from cl.config.backbone import BackboneConfig
from cl.config.data import DataConfig
from cl.config.methods import METHODS
from cl.data.executors.resident import ResidentExecutor
from cl.data.sources.digits import digits
from cl.data.views.rows import CentreView
from cl.data.views.spec import EvalSpec
from cl.evaluation.offline.few_labels import few_labels_accuracies
from tests.conftest import Run

CPU = torch.device("cpu")
LABELS = 10
SEEDS = (0, 1, 2)
WIDTH = 16
MARGIN = 0.10
FULL_WIDTH = 64
FULL_MARGIN = 0.03  # at full width random features are better: 0.84 instead of 0.61 to 0.68
SPLITS = digits(DataConfig())
REPORT: list[str] = []  # what was measured, to be read with -s: `run` swallows what is printed before it


def evaluation_images() -> list[torch.Tensor]:
    """Training and held-out images as the backbone sees them in evaluation."""
    executors = [
        ResidentExecutor(each, CentreView(EvalSpec(8)), SPLITS.norm, CPU) for each in (SPLITS.train, SPLITS.val)
    ]
    return [each.to_batch(each.read([(0, i) for i in range(len(each.targets))])).views[0][0] for each in executors]


def features(backbone: Backbone) -> list[torch.Tensor]:
    with torch.no_grad():
        return [backbone.eval()(images) for images in evaluation_images()]


def untrained(seed: int, calibrated: bool, width: int) -> Backbone:
    """A random backbone; `calibrated` gives its batch norms the statistics of the training images."""
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig("resnet18", width=width), 8)
    if calibrated:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain average
        with torch.no_grad():
            backbone.train()(evaluation_images()[0])
    return backbone


def few_label_accuracy(train: torch.Tensor, held_out: torch.Tensor) -> float:
    targets = [torch.from_numpy(images.targets) for images in (SPLITS.train, SPLITS.val)]
    return float(np.mean(few_labels_accuracies(train, targets[0], held_out, targets[1], LABELS)))


@cache
def random_accuracy(width: int) -> float:
    """The best of six random backbones, which is more than their mean: what pretraining has to beat."""
    starts = {
        (seed, calibrated): few_label_accuracy(*features(untrained(seed, calibrated, width)))
        for seed in SEEDS
        for calibrated in (False, True)
    }
    pixels = few_label_accuracy(*(images[:, 0].flatten(1) for images in evaluation_images()))
    rounded = {start: round(accuracy, 3) for start, accuracy in starts.items()}
    REPORT.append(f"width {width}, random (seed, calibrated): {rounded}; raw pixels: {pixels:.3f}")
    return max(starts.values())


def pretrained_accuracy(run: Run, folder: Path, method: str, seed: int, width: int, *others: str) -> float:
    """Run the preset of a method, which must raise no alarm, and probe its exported backbone."""
    name = f"{method}-{seed}"
    flags = ["--method", method, "--seed", str(seed), "--width", str(width), "--run_id", name, *others]
    code, out, err = run("main_contrastive.py", "digits", "resnet18", *flags)
    assert (code, err) == (0, "")
    verdict = [line for line in out.splitlines() if "collapse" in line and "stop_on" not in line]
    assert len(verdict) == 1, verdict  # in the closing lines, and none in between
    assert verdict[0].startswith("no collapse")
    accuracy = few_label_accuracy(*features(cl.load_backbone(folder / f"trained_models/{name}/backbone.safetensors")))
    REPORT.append(f"{method}, width {width}, seed {seed}: {accuracy:.3f}; {verdict[0]}")
    return accuracy


ALONE = [method for method in METHODS if method != "distill"]  # which learns as much as its teacher knows
VARIANTS = {**{method: (method, []) for method in ALONE}, "decoupled": ("simclr", ["--decoupled"])}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_method_beats_random_initialisation_by_ten_points(run: Run, folder: Path, variant: str) -> None:
    method, flags = VARIANTS[variant]
    accuracy = pretrained_accuracy(run, folder, method, 0, WIDTH, *flags)
    random = random_accuracy(WIDTH)
    print("\n".join(REPORT))
    assert accuracy >= random + MARGIN


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("width", [WIDTH, FULL_WIDTH])
def test_three_seeds_of_each_method_beat_it_and_labels_help(run: Run, folder: Path, width: int) -> None:
    """The table of docs/results.md."""
    found = {method: [pretrained_accuracy(run, folder, method, seed, width) for seed in SEEDS] for method in ALONE}
    random = random_accuracy(width)
    for method, accuracies in found.items():
        REPORT.append(f"{method}: mean of {len(SEEDS)} seeds {np.mean(accuracies):.3f}")
    print("\n".join(REPORT))
    margin = MARGIN if width == WIDTH else FULL_MARGIN
    assert all(np.mean(accuracies) >= random + margin for accuracies in found.values())
    assert np.mean(found["supcon"]) > np.mean(found["simclr"])
