"""Journeys of a newcomer, from the pages' own text.

The third, adding a method, is tests/test_adding_a_method.py.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import ImageEnhance

from cl import embed
from tests.conftest import Run
from tests.pictures import plain
from tests.test_docs import blocks, commands


def write_twins(folder: Path, count: int) -> None:
    """Photographs in pairs: a picture, and the same a little brighter."""
    folder.mkdir()
    for number in range(count):
        picture = plain(number, 96, 96)
        picture.save(folder / f"{number:02d}.jpg")
        ImageEnhance.Brightness(picture).enhance(1.1).save(folder / f"{number:02d}_brighter.jpg")


def test_photographs_become_neighbours_and_an_export_that_torchvision_reads(run: Run, folder: Path) -> None:
    write_twins(folder / "my_photos", 12)
    plain(1).save("photo.jpg")
    pretrain, neighbours = commands("README.md", "Your photographs")

    _, program, *flags = shlex.split(pretrain)
    code, out, err = run(program, *flags, "--batch_size", "12", "--max_steps", "2", "--num_workers", "0")
    assert (code, err) == (0, "")
    assert "neighbours.png shows which images the backbone finds similar" in out

    embed.main([*shlex.split(neighbours)[3:], "--num_workers", "0"])
    found = np.load("features.npz")
    numbers = np.array([int(path[:2]) for path in found["paths"]])  # twins have the same
    assert len(numbers) == 24
    assert (numbers[found["neighbours"][:, 0]] == numbers).sum() >= 20

    (load,) = blocks("README.md", "python")
    names: dict[str, Any] = {}
    exec(load, names)
    assert names["features"].shape == (1, 512)
    _, torchvisions = blocks("using_the_backbone.md", "python")
    exec(torchvisions, names)
    with torch.no_grad():
        assert torch.equal(names["network"].eval()(names["image"][None]), names["features"])


@pytest.fixture
def moco(folder: Path) -> Path:
    """A checkpoint as MoCo's official code writes it; its encoders have a hidden layer in the place of fc."""
    weights = torchvision.models.resnet18(num_classes=8).state_dict()
    state = {}
    for name in ("encoder_q", "encoder_k"):
        state |= {f"module.{name}.{key.replace('fc.', 'fc.0.')}": value for key, value in weights.items()}
    state["module.queue"] = torch.zeros(8, 16)
    file = folder / "checkpoint_0199.pth.tar"
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {}}, file)
    return file


def test_the_weights_of_another_program_are_evaluated_embedded_and_trained_on(run: Run, moco: Path) -> None:
    write_twins(moco.parent / "my_photos", 3)
    evaluate, neighbours, pretrain = commands("weights.md")

    _, program, *flags = shlex.split(evaluate)
    code, out, err = run(program, *flags, "--epochs", "5", "--run_id", "evaluated")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "120 of 120 keys of resnet18 matched: under module.encoder_q.*" in text
    assert json.loads(Path("trained_models/evaluated/summary.json").read_text())["offline_linear/val_top1"] > 0.3

    embed.main([*shlex.split(neighbours)[3:], "--num_workers", "0"])
    assert np.load("features.npz")["features"].shape == (6, 512)

    _, program, *flags = shlex.split(pretrain)
    code, out, err = run(program, *flags, "--batch_size", "4", "--num_workers", "0", "--fast_dev_run")
    assert (code, err) == (0, "")
    assert "120 of 120 keys of resnet18 matched" in " ".join(out.split())
