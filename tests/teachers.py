"""A small teacher for --method distill, and the flags of each method in runs over all of them."""

import tempfile
from functools import cache
from pathlib import Path

import torch

from cl.backbones.card import Card
from cl.run.weights.export import export

CLASSES = ("a", "b")


def write_teacher(folder: Path, seed: int = 0, channels: int = 3, crop_size: int = 8) -> Path:
    """Export a random ResNet-18 with 8 features, as a run does."""
    card = Card(
        encoder="resnet18",
        stem="small",
        width=1,
        in_channels=channels,
        crop_size=crop_size,
        resize=crop_size,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        classes=CLASSES,
        method="simclr",
        metrics={},
        cl="test",
    )
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    export(card.build().eval(), card, folder)
    return folder / "backbone.safetensors"


@cache
def teacher() -> Path:
    """The same file for all tests of a process; every process writes the same bytes."""
    return write_teacher(Path(tempfile.mkdtemp(prefix="cl-teacher-")))


def method_flags(method: str) -> list[str]:
    """The flags with which a method runs."""
    return ["--method", method, *(["--distill_from", str(teacher())] if method == "distill" else [])]
