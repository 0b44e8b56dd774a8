"""Run folders for the tests of the page: written by hand, with curves and pictures."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cl.evaluation.pictures.embedding_points import COLUMNS as TILES_IN_A_ROW
from cl.evaluation.pictures.embedding_points import SIDE, thumbnails
from tests.test_report import PRETRAIN, metrics_of, write

COLUMNS = ("loss", "online_linear/train_top1", "online_linear/val_top1", "health/std", "health/rank", "lr")
PICTURES = ("views.png", "neighbours.png", "worth.png")
NASTY = "<script>alert(1)</script> & 'a' \"b\" ${c}"


def metric(run: int, epoch: int, column: int) -> float:
    """Any number, another one in each cell."""
    return round((run + 1) / (epoch + 1) + column * 0.1373, 6)


def metrics_text(run: int, epochs: int) -> str:
    lines = [",".join(("epoch", "step", *COLUMNS))]
    for epoch in range(1, epochs + 1):
        cells = [f"{metric(run, epoch, column):.6g}" for column in range(len(COLUMNS))]
        lines.append(",".join((str(epoch), str(5 * epoch), *cells)))
    return "\n".join(lines) + "\n"


def write_run(
    folder: Path, number: int, epochs: int = 12, seed: int = 0, ended: bool = True, argv: str = "", **flags: Any
) -> Path:
    """A run folder with `epochs` rows of metrics; run `number` decides about its values."""
    write(folder, PRETRAIN, metrics_of(0.5 + number / 100, 0.6) if ended else None, seed, **flags)
    (folder / "metrics.csv").write_text(metrics_text(number, epochs))
    rows = [f"{epoch},{1000 + number},{2 + number}" for epoch in range(1, epochs + 1)]
    (folder / "timing.csv").write_text("\n".join(["epoch,images_per_second,seconds", *rows]) + "\n")
    content = json.loads((folder / "config.json").read_text())
    content |= {"argv": argv or f"digits resnet18 --name {folder.name}", "versions": {"torch": "2.11"}, "commit": "abc"}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def add_pictures(folder: Path, width: int, height: int) -> None:
    """Pictures that compress as badly as photographs do: noise, smoothed."""
    for number, name in enumerate(PICTURES):
        noise = Image.effect_noise((width // 4, height // 4), 60 + number)
        noise.resize((width, height)).convert("RGB").save(folder / name, compress_level=1)


def add_embedding(folder: Path, names: list[str], classes: list[str]) -> None:
    """A map with a point for each name on a circle; those with an even number have a thumbnail."""
    angle = torch.arange(len(names)) * 2 * torch.pi / len(names)
    tiled = range(0, min(len(names), 800), 2)
    content = {
        "title": "t-SNE, validation images",
        "classes": classes,
        "x": [round(value, 4) for value in angle.cos().tolist()],
        "y": [round(value, 4) for value in angle.sin().tolist()],
        "class": [number % len(classes) for number in range(len(names))],
        "cluster": [int(number > len(names) / 2) for number in range(len(names))],
        "images": {
            "names": names,
            "tiles": [number // 2 if number in tiled else -1 for number in range(len(names))],
            "columns": TILES_IN_A_ROW,
            "side": SIDE,
            "jpeg": thumbnails([torch.full((3, 8, 8), number % 256, dtype=torch.uint8) for number in tiled]),
        },
    }
    (folder / "embedding.json").write_text(json.dumps(content))
