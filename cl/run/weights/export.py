"""Export of the trained backbone, with the parameter names of torchvision or timm, and its card."""

from pathlib import Path

from safetensors.torch import save

from cl.backbones import Backbone
from cl.backbones.card import Card
from cl.config.resume import EXPORT
from cl.run.folder.atomic_files import write_or_stop


def export(backbone: Backbone, card: Card, folder: Path) -> None:
    """Write backbone.safetensors and backbone.json."""
    weights = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    text = card.to_json()
    write_or_stop(folder / EXPORT, lambda file: file.write(save(weights, {"format": "pt", "card": text})))
    write_or_stop(folder / "backbone.json", lambda file: file.write(text.encode()))
