"""Load trained backbones: from our runs, with their card, or from files of other toolkits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from PIL import Image
from torch import Tensor

import cl
from cl.backbones import Backbone, build_backbone
from cl.backbones.card import Card, teacher_of
from cl.backbones.choice import choose_network
from cl.backbones.inputs import Inputs, timm_inputs, torchvision_inputs
from cl.backbones.loading import check_features, load_all_weights, load_init_from
from cl.backbones.timm import check_encoder, check_name
from cl.backbones.weight_files import Weights, read_weights
from cl.config.backbone import BackboneConfig, EncoderConfig
from cl.config.data import COLOURS, DataConfig
from cl.config.programs import Linear
from cl.config.views import Size, ViewsConfig, as_size, in_pixels, sides
from cl.data.decoding.decode import channels_first, read_image
from cl.data.decoding.modes import to_8_bits
from cl.data.executors.torchvision import apply_eval, normalize
from cl.data.views.spec import EvalSpec, Norm
from cl.errors import UserError
from cl.run.folder.run_folder import SCHEMA


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
    views = config["views"]
    size = as_size(views["crop_size"])
    cover = views.get("eval_resize")
    view = EvalSpec(size, as_size(cover) if cover else None, views.get("eval_interpolation", "bilinear"))
    stem = "small" if backbone.small_stem(size) else "large"
    is_timm = backbone.timm_name is not None
    return Card(
        encoder=backbone.encoder,
        stem=None if is_timm else stem,
        width=None if is_timm else backbone.width,
        in_channels=int(config["data"]["in_channels"]),
        crop_size=size,
        resize=view.resize,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        classes=tuple(metadata["classes"]),
        method=config["method"]["method"],
        metrics=metrics,
        cl=cl.__version__,
        patch_size=backbone.patch_size,
        teacher=teacher_of(config["method"]),
        norm_origin=metadata.get("norm_origin", ""),
        interpolation=view.interpolation,
    )


def inputs_of_download(source: str, encoder: EncoderConfig) -> Inputs | None:
    """What `--init_from torchvision` or `timm/NAME` says about its images."""
    if source == "torchvision":
        return torchvision_inputs(encoder.encoder) if encoder.timm_name is None else None
    name = source.removeprefix("timm/")
    check_name(name, "--init_from")
    return timm_inputs(name)


def inputs_of_file(source: str, flag: str, encoder: EncoderConfig) -> Inputs | None:
    """What a run or a weight file says about its images, or what timm says about the network; None if nobody does."""
    check_encoder(encoder)
    weights = read_weights(source, flag)
    if "card" not in weights.metadata and "cl" not in weights.metadata:
        return _published_inputs(encoder, weights.file.name)
    try:
        card = read_card(weights)
    except UserError:  # it is refused where the weights are loaded, if they are to be evaluated
        return None
    return _inputs_of_card(card, source) if card else None


def _inputs_of_card(card: Card, source: str) -> Inputs:
    """What a card says about the images."""
    rule = EvalSpec(card.crop_size).resize
    return Inputs(
        origin=": ".join(filter(None, (f"card of {source}", card.norm_origin))),
        norm=(card.mean, card.std),
        size=card.crop_size,
        fraction=sides(card.crop_size)[0] / sides(card.resize)[0] if card.resize != rule else None,
        interpolation=card.interpolation,
    )


def _published_inputs(encoder: EncoderConfig, file: str) -> Inputs | None:
    """What timm says about a network of that name, or torchvision about a file of that name."""
    check_encoder(encoder)
    return timm_inputs(encoder.timm_name) if encoder.timm_name else torchvision_inputs(encoder.encoder, file)


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
        view = _inputs_of_card(card, str(path)).view(ViewsConfig(crop_size).crop_size)
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
    known = _published_inputs(encoder, weights.file.name) or (Inputs("typed", typed, None) if typed else None)
    if known is None:
        raise UserError(
            f"--mean and --std: not given, expected both: {weights.file} does not say how the images of its "
            f"{encoder.encoder} were normalised"
        )
    view = known.view(crop_size or known.size or ViewsConfig().crop_size)
    norm = typed or known.norm
    return _card_of(_inferred(weights, encoder, view.size, len(norm[0])), view, norm, known.origin)


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
        _card_of(config, view, known.norm, known.origin),
        lambda backbone: load_init_from(backbone, config, view.size, channels),
    )


def _card_of(built: BackboneConfig, view: EvalSpec, norm: Norm, norm_origin: str) -> Card:
    """The card of a network that another toolkit trained."""
    (mean, std) = norm
    is_timm = built.timm_name is not None
    return Card(
        encoder=built.encoder,
        stem=None if is_timm else "small" if built.small_stem(view.size) else "large",
        width=None if is_timm else built.width,
        patch_size=built.patch_size,
        in_channels=len(mean),
        crop_size=view.size,
        resize=view.resize,
        mean=mean,
        std=std,
        classes=(),
        method="",
        metrics={},
        cl=cl.__version__,
        norm_origin=norm_origin,
        interpolation=view.interpolation,
    )


def _loaded(card: Card, load: Callable[[Backbone], object]) -> LoadedBackbone:
    backbone = cast(LoadedBackbone, card.build().eval().requires_grad_(False))
    load(backbone)
    backbone.card = card
    backbone.transform = Transform(card)
    return backbone
