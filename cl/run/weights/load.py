"""Load trained backbones: from our runs, with their card, or from files of other toolkits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from PIL import Image
from torch import Tensor

from cl.backbones import Backbone, build_backbone
from cl.backbones.card import Card
from cl.backbones.choice import choose_network
from cl.backbones.inputs import Inputs, timm_inputs
from cl.backbones.loading import check_features, load_all_weights, load_init_from
from cl.backbones.timm import check_encoder, check_name
from cl.backbones.weight_files import Weights, read_weights
from cl.config.backbone import BackboneConfig, EncoderConfig
from cl.config.data import COLOURS, DataConfig
from cl.config.programs import Linear
from cl.config.views import Size, ViewsConfig, in_pixels
from cl.data.decoding.decode import channels_first, read_image
from cl.data.decoding.modes import to_8_bits
from cl.data.executors.torchvision import apply_eval, normalize
from cl.data.views.spec import Norm
from cl.errors import UserError
from cl.run.weights.cards import network_card, read_card
from cl.run.weights.inputs import inputs_of_card, published_inputs


class Pretrained(NamedTuple):
    """A backbone for linear evaluation."""

    backbone: Backbone
    report: str  # which weights matched, and what was assumed


def load_pretrained(config: Linear) -> Pretrained:
    """Load `--pretrained_feature_extractor`: as its card describes it, or without a card as the flags do."""
    named = config.linear.pretrained_feature_extractor
    encoder = config.backbone
    channels = config.data.in_channels
    size = config.views.crop_size
    check_encoder(encoder)
    weights = read_weights(named or "", "--pretrained_feature_extractor")
    card = read_card(weights)
    if card is not None:
        _refuse_another_encoder(card, encoder.encoder, weights)
        if channels != card.in_channels:
            raise UserError(f"--in_channels: got {channels}, expected {card.in_channels}, as in {weights.file}")
        backbone = card.build({"crop_size": size})
        assumed = []
    else:
        built = _inferred(weights, encoder, size, channels)
        backbone = build_backbone(built, size, channels)
        assumed = [] if config.data.norm else ["the data set's normalisation", f"views of {in_pixels(size)}"]
        if built.stem == "small":
            assumed.append("a 3x3 stem with padding 1 and no max-pool")
    key = encoder.weights_key or weights.evaluated
    report = load_all_weights(backbone, weights.tensors, weights.given, encoder.encoder, key)
    check_features(backbone, size, channels, weights.given)
    return Pretrained(backbone, f"{report}; assumed: {', '.join(assumed)}" if assumed else report)


def _refuse_another_encoder(card: Card, encoder: str, weights: Weights) -> None:
    if encoder != card.encoder:
        raise UserError(f"encoder: got {encoder}, expected {card.encoder}, as in {weights.file}")


def _inferred(weights: Weights, encoder: EncoderConfig, size: Size, channels: int) -> BackboneConfig:
    """The network of a file without a card: stem and width, or the patch size, as its first convolution is."""
    config = BackboneConfig(encoder.encoder)
    expected = build_backbone(config, size, channels).state_dict()
    match, _ = choose_network(expected, weights.tensors, encoder.weights_key, weights.given)
    if config.timm_name is not None:
        return replace(config, patch_size=_patch_size(match.weights, expected))
    first = match.weights.get("conv1.weight")
    if first is None or first.ndim != 4 or first.shape[2] not in (3, 7):
        return config
    return replace(config, stem="small" if first.shape[2] == 3 else "large", width=first.shape[0])


def _patch_size(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int | None:
    """The side of a vision transformer's patches, if it is another one than the network's name says."""
    name = "patch_embed.proj.weight"
    if name not in weights or name not in expected or weights[name].shape[2:] == expected[name].shape[2:]:
        return None
    return weights[name].shape[-1]


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
        return normalize(apply_eval(pixels, self.card.view), (self.card.mean, self.card.std))


class LoadedBackbone(Backbone):
    """A trained backbone in evaluation mode, without gradients, with its card and its image transform."""

    card: Card
    transform: Transform


def load_backbone(
    path: str | Path,
    argument: str = "load_backbone",
    weights_key: str | None = None,
    *,
    encoder: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_size: Size | None = None,
) -> LoadedBackbone:
    """Load the backbone of a run folder, a checkpoint or an export; UserError, which names `argument`, if it fails.

    `weights_key` chooses among the networks of a checkpoint: its teacher instead of the network that is evaluated.
    `encoder` names the network of a file of other toolkits. `mean`, `std` and `crop_size` replace what the card, or
    timm's configuration of that network, says about the images.
    """
    weights = read_weights(str(path), argument)
    card = read_card(weights)
    channels = card.in_channels if card else len(mean or (0, 0, 0))
    typed = DataConfig.from_dict({"in_channels": channels, "mean": mean, "std": std}).norm
    if card is None and encoder is None:
        raise UserError(
            f"{argument}: got {path}, expected a run of main_contrastive.py; {weights.file} has no card, so its "
            "encoder must be given: timm/NAME, resnet18 or resnet50"
        )
    if card is None:
        card = _card_without(weights, EncoderConfig(encoder or "", weights_key), typed, crop_size)
    _refuse_another_encoder(card, encoder or card.encoder, weights)
    if crop_size is not None:
        view = inputs_of_card(card, str(path)).view(ViewsConfig(crop_size).crop_size)
        card = replace(card, crop_size=view.size, resize=view.resize)
    if typed is not None:
        (new_mean, new_std) = typed
        card = replace(card, mean=new_mean, std=new_std, norm_origin="typed")
    key = weights_key or weights.evaluated
    backbone = _loaded(
        card, lambda network: load_all_weights(network, weights.tensors, weights.given, card.encoder, key)
    )
    check_features(backbone, card.crop_size, card.in_channels, weights.given)
    return backbone


def _card_without(weights: Weights, encoder: EncoderConfig, typed: Norm | None, crop_size: Size | None) -> Card:
    """A card for a file of another toolkit, which has none."""
    known = published_inputs(encoder, weights.file.name) or (Inputs("typed", typed, None) if typed else None)
    if known is None:
        raise UserError(
            f"--mean and --std: not given, expected both: {weights.file} does not say how the images of its "
            f"{encoder.encoder} were normalised"
        )
    view = known.view(crop_size or known.size or ViewsConfig().crop_size)
    norm = typed or known.norm
    return network_card(_inferred(weights, encoder, view.size, len(norm[0])), view, norm, known.origin)


def load_published(source: str, argument: str, channels: int, crop_size: Size | None = None) -> LoadedBackbone:
    """Download timm's weights of `source`, timm/NAME; UserError, which names `argument`, if it fails."""
    name = source.removeprefix("timm/")
    check_name(name, argument)
    known = timm_inputs(name)
    if known is None:
        raise UserError(f"{argument}: got {source}, of which timm has no weights")
    config = BackboneConfig(source, init_from=source)
    view = known.view(crop_size or known.size or ViewsConfig().crop_size)
    return _loaded(
        network_card(config, view, known.norm, known.origin),
        lambda backbone: load_init_from(backbone, config, view.size, channels),
    )


def _loaded(card: Card, load: Callable[[Backbone], object]) -> LoadedBackbone:
    backbone = cast(LoadedBackbone, card.build().eval().requires_grad_(False))
    load(backbone)
    backbone.card = card
    backbone.transform = Transform(card)
    return backbone
