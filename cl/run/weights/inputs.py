"""What weights say about their images: by their card, by timm's configuration, or by torchvision's."""

from cl.backbones.card import Card
from cl.backbones.inputs import Inputs, timm_inputs, torchvision_inputs
from cl.backbones.timm import check_encoder, check_name
from cl.backbones.weight_files import read_weights
from cl.config.backbone import EncoderConfig
from cl.config.views import sides
from cl.data.views.spec import EvalSpec
from cl.errors import UserError
from cl.run.weights.cards import read_card


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
        return published_inputs(encoder, weights.file.name)
    try:
        card = read_card(weights)
    except UserError:  # it is refused where the weights are loaded, if they are to be evaluated
        return None
    return inputs_of_card(card, source) if card else None


def inputs_of_card(card: Card, source: str) -> Inputs:
    """What a card says about the images."""
    rule = EvalSpec(card.crop_size).resize
    return Inputs(
        origin=": ".join(filter(None, (f"card of {source}", card.norm_origin))),
        norm=(card.mean, card.std),
        size=card.crop_size,
        fraction=sides(card.crop_size)[0] / sides(card.resize)[0] if card.resize != rule else None,
        interpolation=card.interpolation,
    )


def published_inputs(encoder: EncoderConfig, file: str) -> Inputs | None:
    """What timm says about a network of that name, or torchvision about a file of that name."""
    check_encoder(encoder)
    return timm_inputs(encoder.timm_name) if encoder.timm_name else torchvision_inputs(encoder.encoder, file)
