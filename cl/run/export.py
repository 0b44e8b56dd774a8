"""What a run leaves for others: the backbone alone, under the names of torchvision or timm, and its card."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors.torch import save

from cl.backbones import Backbone
from cl.backbones.card import Card
from cl.backbones.read import EXPORT


def export(backbone: Backbone, card: Card, folder: Path) -> None:
    """Write backbone.safetensors and backbone.json."""
    weights = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    text = card.to_json()
    for name, content in ((EXPORT, save(weights, {"format": "pt", "card": text})), ("backbone.json", text.encode())):
        with whole(folder / name) as file:
            file.write(content)


@contextmanager
def whole(place: Path) -> Iterator[BinaryIO]:
    """A file that appears in its place when all of it is written, or not at all."""
    beside = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)
