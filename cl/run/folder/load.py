"""Load trained backbones: from our runs, with their card, or from files of other toolkits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from PIL import Image
from torch import Tensor

import cl
from cl.backbones import Backbone, build_backbone
from cl.backbones.card import Card
from cl.backbones.choice import choose_network
from cl.backbones.loading import check_features, load_all_weights
from cl.backbones.timm import check_name
from cl.backbones.weight_files import Weights, read_weights
from cl.config.backbone import BackboneConfig
from cl.config.data import COLOURS
from cl.config.programs import Linear
from cl.config.views import Size, as_size, in_pixels
from cl.data.decoding.decode import channels_first, read_image
from cl.data.decoding.modes import to_8_bits
from cl.data.executors.torchvision import apply_eval, normalize
from cl.data.views.spec import EvalSpec, Norm
from cl.errors import UserError
from cl.run.folder.run_folder import SCHEMA


class Pretrained(NamedTuple):
    """A backbone, and what linear evaluation needs to know about its pretraining."""

    backbone: Backbone
    norm: Norm | None  # of the pretraining; None if unknown
    crop_size: Size | None  # of the pretraining views; None if unknown
    report: str  # which weights matched, and what was assumed


def load_pretrained(config: Linear) -> Pretrained:
    """Load `--pretrained_feature_extractor`: as its card describes it, or without a card as the flags do."""
    named = config.linear.pretrained_feature_extractor
    encoder = config.backbone
    channels = config.data.in_channels
    if encoder.timm_name is not None:
        check_name(encoder.timm_name, "encoder")
    weights = read_weights(named or "", "--pretrained_feature_extractor")
    card = read_card(weights)
    if card is None:
        return _load_without_card(weights, config)
    if encoder.encoder != card.encoder:
        raise UserError(f"encoder: got {encoder.encoder}, expected {card.encoder}, as in {weights.file}")
    if channels != card.in_channels:
        raise UserError(f"--in_channels: got {channels}, expected {card.in_channels}, as in {weights.file}")
    backbone = card.build({"crop_size": config.views.crop_size})
    report = load_all_weights(
        backbone, weights.tensors, weights.given, card.encoder, encoder.weights_key or weights.evaluated
    )
    check_features(backbone, config.views.crop_size, channels, weights.given)
    return Pretrained(backbone, (card.mean, card.std), card.crop_size, report)


def _load_without_card(weights: Weights, config: Linear) -> Pretrained:
    """Infer a ResNet's stem and width from its first convolution; everything else is assumed."""
    assumed_config = BackboneConfig(config.backbone.encoder)
    size = config.views.crop_size
    channels = config.data.in_channels
    backbone = build_backbone(assumed_config, size, channels)
    key = config.backbone.weights_key
    match, _ = choose_network(backbone.state_dict(), weights.tensors, key, weights.given)
    first = match.weights.get("conv1.weight")
    assumed = f"assumed: the data set's normalisation, views of {in_pixels(size)}"
    if assumed_config.timm_name is None and first is not None and first.ndim == 4 and first.shape[2] in (3, 7):
        stem = "small" if first.shape[2] == 3 else "large"
        backbone = build_backbone(replace(assumed_config, stem=stem, width=first.shape[0]), size, channels)
        if stem == "small":
            assumed += ", a 3x3 stem with padding 1 and no max-pool"
    report = load_all_weights(backbone, weights.tensors, weights.given, assumed_config.encoder, key)
    check_features(backbone, size, channels, weights.given)
    return Pretrained(backbone, norm=None, crop_size=None, report=f"{report}; {assumed}")


def read_card(weights: Weights) -> Card | None:
    """The card of an export or checkpoint of ours, None for other files; UserError if it is invalid."""
    if "card" not in weights.metadata and "cl" not in weights.metadata:
        return None
    try:
        if "card" in weights.metadata:
            return Card.from_json(weights.metadata["card"])
        return make_card(weights.metadata["cl"], {})
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(
            f"{weights.given}; {weights.file} is not a checkpoint of main_contrastive.py ({error})"
        ) from None


def make_card(metadata: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Card:
    """The card of a pretraining run, from the metadata of its checkpoints (`checkpoint_metadata`)."""
    program = metadata["program"]
    schema = metadata["schema"]
    if program != "Pretrain" or schema != SCHEMA:
        raise ValueError(f"program {program}, schema {schema}; expected Pretrain and {SCHEMA}")
    config = metadata["config"]
    (mean, std) = metadata["norm"]
    backbone = BackboneConfig.from_dict(config["backbone"])
    size = as_size(config["views"]["crop_size"])
    stem = "small" if backbone.small_stem(size) else "large"
    is_timm = backbone.timm_name is not None
    return Card(
        encoder=backbone.encoder,
        stem=None if is_timm else stem,
        width=None if is_timm else backbone.width,
        in_channels=int(config["data"]["in_channels"]),
        crop_size=size,
        resize=EvalSpec(size).resize,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        classes=tuple(metadata["classes"]),
        method=config["method"]["method"],
        metrics=metrics,
        cl=cl.__version__,
        patch_size=backbone.patch_size,
    )


@dataclass(frozen=True)
class Transform:
    """The evaluation transform that the backbone was validated with."""

    card: Card

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        """A picture of any mode, or an image file, -> [C, *crop_size] float32, normalised; or BadImage."""
        channels = self.card.in_channels
        if isinstance(image, Image.Image) and channels > COLOURS:
            raise UserError(f"transform: got a picture, expected a TIFF or .npy file with {channels} channels")
        if isinstance(image, Image.Image):
            pixels = channels_first(to_8_bits(image, channels))
        else:
            pixels = read_image(Path(image), channels)
        return normalize(apply_eval(pixels, EvalSpec(self.card.crop_size)), (self.card.mean, self.card.std))


class LoadedBackbone(Backbone):
    """A trained backbone in evaluation mode, without gradients, with its card and its image transform."""

    card: Card
    transform: Transform


def load_backbone(path: str | Path, argument: str = "load_backbone", weights_key: str | None = None) -> LoadedBackbone:
    """Load the backbone of a run folder, a checkpoint or an export; UserError, which names `argument`, if it fails.

    `weights_key` chooses among the networks of a checkpoint: its teacher instead of the network that is evaluated.
    """
    weights = read_weights(str(path), argument)
    card = read_card(weights)
    if card is None:
        raise UserError(f"{argument}: got {path}, expected a run of main_contrastive.py; {weights.file} has no card")
    backbone = cast(LoadedBackbone, card.build().eval().requires_grad_(False))
    key = weights_key or weights.evaluated
    load_all_weights(backbone, weights.tensors, weights.given, card.encoder, key)
    check_features(backbone, card.crop_size, card.in_channels, weights.given)
    backbone.card = card
    backbone.transform = Transform(card)
    return backbone
