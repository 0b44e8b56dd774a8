"""The recipes of digits mean something: each method's features beat the same backbone at random initialisation.

Linear probe on ten labels a class, tested on the held-out split; mean over ten draws of the labelled images.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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
LABELS, SEEDS = 10, (0, 1, 2)
MARGIN = {"simclr": 0.05}  # of the quick start; three points of the others
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


def untrained(seed: int, calibrated: bool) -> Backbone:
    """A random backbone; `calibrated` gives its batch norms the statistics of the training images."""
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig("resnet18"), 8)
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
def random_accuracy() -> float:
    """The best of six random backbones, which is more than their mean: what pretraining has to beat."""
    starts = {(seed, fair): few_label_accuracy(*features(untrained(seed, fair))) for seed in SEEDS for fair in (0, 1)}
    pixels = few_label_accuracy(*(images[:, 0].flatten(1) for images in evaluation_images()))
    REPORT.append(f"random (seed, calibrated): { {start: round(found, 3) for start, found in starts.items()} }")
    REPORT.append(f"raw pixels: {pixels:.3f}")
    return max(starts.values())


def pretrained_accuracy(run: Run, folder: Path, method: str, seed: int) -> float:
    """Run the recipe of a method, which must raise no alarm, and probe its backbone."""
    name = f"{method}-{seed}"
    flags = ["--method", method, "--seed", str(seed), "--run_id", name]
    code, out, err = run("main_contrastive.py", "digits", "resnet18", *flags)
    assert (code, err) == (0, "")
    verdict = [line for line in out.splitlines() if "collapse" in line and "stop_on" not in line]
    assert len(verdict) == 1, verdict  # in the closing lines, and none in between
    assert verdict[0].startswith("no collapse")
    backbone = build_backbone(BackboneConfig("resnet18"), 8)
    weights = torch.load(folder / f"trained_models/{name}/last.ckpt", weights_only=True)["state_dict"]
    backbone.load_state_dict({key[9:]: value for key, value in weights.items() if key.startswith("backbone.")})
    accuracy = few_label_accuracy(*features(backbone))
    REPORT.append(f"{method}, seed {seed}: {accuracy:.3f}; {verdict[0]}")
    return accuracy


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_beats_random_initialisation(run: Run, folder: Path, method: str) -> None:
    accuracy, random = pretrained_accuracy(run, folder, method, seed=0), random_accuracy()
    print("\n".join(REPORT))
    assert accuracy >= random + MARGIN.get(method, 0.03)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_so_do_three_seeds_of_each_and_labels_help(run: Run, folder: Path) -> None:
    """Twenty minutes on two cores; the README's table."""
    found = {method: [pretrained_accuracy(run, folder, method, seed) for seed in SEEDS] for method in METHODS}
    random = random_accuracy()
    REPORT.extend(f"{method}: mean of {len(SEEDS)} seeds {np.mean(each):.3f}" for method, each in found.items())
    print("\n".join(REPORT))
    assert all(np.mean(accuracies) >= random + 0.03 for accuracies in found.values())
    assert all(supcon > simclr for supcon, simclr in zip(found["supcon"], found["simclr"], strict=True))
