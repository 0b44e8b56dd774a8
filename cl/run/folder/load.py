"""Backbones that were trained: by our runs, which say all about them, or by others, whose files say less."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from PIL import Image, ImageOps
from torch import Tensor

import cl
from cl.backbones import Backbone, build_backbone
from cl.backbones.card import Card
from cl.backbones.layouts import find_backbone
from cl.backbones.loading import load_all_weights
from cl.backbones.timm import check_name
from cl.backbones.weight_files import Weights, read_weights
from cl.config.backbone import BackboneConfig
from cl.config.programs import Linear
from cl.data.decode import decode
from cl.data.executors.torchvision import apply_eval, normalize
from cl.data.views.spec import EvalSpec, Norm
from cl.errors import UserError
from cl.run.folder.run_folder import SCHEMA


class Pretrained(NamedTuple):
    """A backbone, and what linear evaluation has to know of it."""

    backbone: Backbone
    norm: Norm | None  # that it was trained with; None: nobody knows
    crop_size: int | None  # of the views that it was trained with, likewise
    report: str  # which weights were found, and what was assumed


def load_pretrained(config: Linear) -> Pretrained:
    """What `--pretrained_feature_extractor` names: ours as it was trained, others' as the flags say."""
    named = config.linear.pretrained_feature_extractor
    encoder = config.backbone
    channels = config.data.in_channels
    if encoder.timm_name is not None:
        check_name(encoder.timm_name, "encoder")
    said = f"--pretrained_feature_extractor: got {named}"
    weights = read_weights(named or "", "--pretrained_feature_extractor")
    card = card_in(weights, said)
    if card is None:
        return _others(weights, config, said)
    if encoder.encoder != card.encoder:
        raise UserError(f"encoder: got {encoder.encoder}, expected {card.encoder}, which {weights.file} holds")
    if channels != card.in_channels:
        raise UserError(f"--in_channels: got {channels}, expected {card.in_channels}, which the backbone takes")
    backbone = card.build({"crop_size": config.views.crop_size})
    report = load_all_weights(backbone, weights.tensors, said, card.encoder)
    return Pretrained(backbone, (card.mean, card.std), card.crop_size, report)


def _others(weights: Weights, config: Linear, said: str) -> Pretrained:
    """A backbone of others: a ResNet's stem and width are those of its first convolution, all else is assumed."""
    made = BackboneConfig(config.backbone.encoder)
    size = config.views.crop_size
    channels = config.data.in_channels
    backbone = build_backbone(made, size, channels)
    first = find_backbone(backbone.state_dict(), weights.tensors).weights.get("conv1.weight")
    assumed = f"assumed: the data set's normalisation, views of {size} pixels"
    if made.timm_name is None and first is not None and first.ndim == 4 and first.shape[2] in (3, 7):
        stem = "small" if first.shape[2] == 3 else "large"
        backbone = build_backbone(replace(made, stem=stem, width=first.shape[0]), size, channels)
        assumed += ", a 3x3 stem with padding 1 and no max-pool" * (stem == "small")
    report = load_all_weights(backbone, weights.tensors, said, made.encoder)
    return Pretrained(backbone, None, None, f"{report}; {assumed}")


def card_in(weights: Weights, said: str) -> Card | None:
    """The card of an export or of a checkpoint of ours, None for others' files; UserError if it cannot be read."""
    written = {name: weights.metadata[name] for name in ("cl", "card") if name in weights.metadata}
    if not written:
        return None
    try:
        if "card" in written:
            return Card.from_json(written["card"])
        return card_of(written["cl"], {})
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{said}; {weights.file} is no checkpoint of main_contrastive.py ({error})") from None


def card_of(facts: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Card:
    """The card of a run, from what its checkpoints say (`checkpoint.facts_of`)."""
    if facts["program"] != "Pretrain" or facts["schema"] != SCHEMA:
        raise ValueError(f"program {facts['program']}, schema {facts['schema']}; expected Pretrain and {SCHEMA}")
    config = facts["config"]
    (mean, std) = facts["norm"]
    backbone = BackboneConfig.from_dict(config["backbone"])
    size = int(config["views"]["crop_size"])
    ours = backbone.timm_name is None
    return Card(
        encoder=backbone.encoder,
        stem=("small" if backbone.small_stem(size) else "large") if ours else None,
        width=backbone.width if ours else None,
        in_channels=int(config["data"]["in_channels"]),
        crop_size=size,
        resize=EvalSpec(size).resize,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        classes=tuple(facts["classes"]),
        method=config["method"]["method"],
        metrics=metrics,
        cl=cl.__version__,
    )


@dataclass(frozen=True)
class Transform:
    """The evaluation view of a picture, as the backbone's own evaluation saw its images."""

    card: Card

    def __call__(self, picture: Image.Image) -> Tensor:
        """A PIL image of any mode -> [C, crop_size, crop_size] float32."""
        buffer = io.BytesIO()
        upright = ImageOps.exif_transpose(picture)
        # Through the decoder of all other images, which knows 16 bits and transparency; PNG keeps these modes.
        kept = upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
        (upright if kept else upright.convert("RGB")).save(buffer, "png", compress_level=0)
        pixels = decode(buffer.getvalue(), self.card.in_channels)
        return normalize(apply_eval(pixels, EvalSpec(self.card.crop_size)), (self.card.mean, self.card.std))


class LoadedBackbone(Backbone):
    """A trained backbone in evaluation mode and without gradients, with its card and the transform of its images."""

    card: Card
    transform: Transform


def load_backbone(named: str | Path, said: str = "load_backbone") -> LoadedBackbone:
    """The backbone of a run folder, or of a checkpoint or export in one; UserError if `named` is none."""
    weights = read_weights(str(named), said)
    card = card_in(weights, f"{said}: got {named}")
    if card is None:
        raise UserError(f"{said}: got {named}, expected a run of main_contrastive.py; {weights.file} has no card")
    backbone = cast(LoadedBackbone, card.build().eval().requires_grad_(False))
    load_all_weights(backbone, weights.tensors, f"{said}: got {named}", card.encoder)
    backbone.card = card
    backbone.transform = Transform(card)
    return backbone
