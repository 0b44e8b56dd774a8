"""What learns in a method, at which rate, and from which optimizer step on."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from cl.backbones import Backbone
from cl.backbones.layers import layers_of
from cl.config.programs import Pretrain
from cl.optim.groups import Group, by_layer


class Parts(NamedTuple):
    """The networks of a method that learn; what is in none of them is its projector."""

    backbone: Backbone
    predictor: nn.Module | None
    prototypes: nn.Module | None
    online_head: nn.Module | None


def learning_groups(
    config: Pretrain, batch: int, parts: Parts, learned: Sequence[nn.Parameter], frozen: tuple[int, int]
) -> list[Group]:
    """Parameter groups for a global batch of `batch` images; the method's loss trains all of `learned`.

    `frozen` is how many optimizer steps the backbone and the prototypes are frozen for.
    """
    optim = config.optim
    backbone, predictor, prototypes, online = map(_parameters, parts)
    elsewhere = {id(p) for p in (*backbone, *predictor, *prototypes)}
    rest = [p for p in learned if id(p) not in elsewhere]
    decay_scheduled = optim.weight_decay_end is not None
    heads = Group(rest, optim.scaled_lr(batch), optim.weight_decay, decay_scheduled=decay_scheduled)
    groups = [
        *_with_backbone(heads, config, parts.backbone, frozen[0]),
        heads._replace(parameters=predictor, scheduled=optim.lr_scheduler_for_pred_head),
        heads._replace(parameters=prototypes, frozen_steps=frozen[1]),
        Group(online, optim.scaled_classifier_lr(batch), weight_decay=0.0, adapted=False),
    ]
    return [group for group in groups if group.parameters]


def _with_backbone(heads: Group, config: Pretrain, network: Backbone, frozen_steps: int) -> list[Group]:
    """The heads first, whose rate is that of --lr, then the backbone; one group if nothing tells them apart."""
    optim = config.optim
    decays = optim.layer_decay < 1
    layers = (layers_of(network) if decays else None) or [list(network.parameters())]
    layers = [[p for p in layer if p.requires_grad] for layer in layers]
    backbone = heads._replace(lr=optim.backbone_lr_factor * heads.lr, frozen_steps=frozen_steps)
    if backbone == heads and not decays:
        return [heads._replace(parameters=[*layers[0], *heads.parameters])]
    return [heads, *by_layer(backbone, layers, optim.layer_decay)]


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return list(module.parameters()) if module is not None else []
