"""Parameter groups: what learns at which rate, as data on the group."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn


class Group(NamedTuple):
    """Parameters that learn alike."""

    parameters: Sequence[nn.Parameter]
    lr: float  # at its peak, scaled to the global batch
    weight_decay: float
    scheduled: bool = True  # False: the rate stays as it is, as SimSiam's predictor wants it
    adapted: bool = True  # False: LARS gives it a plain SGD step


def torch_groups(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """What torch's optimizers take."""
    return [
        {"params": list(each.parameters), "lr": each.lr, "weight_decay": each.weight_decay, "scheduled": each.scheduled}
        for each in groups
    ]


def lars_groups(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """What timm's Lars takes: biases and norms in groups of their own, with plain steps and without decay (SimCLR).

    Each group says whether it is adapted: by itself Lars silently stops to adapt where the decay is 0.
    """
    split = []
    for group in groups:
        matrices = [p for p in group.parameters if p.ndim > 1 and group.adapted]
        plain = [p for p in group.parameters if p.ndim <= 1 or not group.adapted]
        for parameters, adapted in ((matrices, True), (plain, False)):
            if parameters:
                decay = group.weight_decay if adapted else 0.0
                (made,) = torch_groups([group._replace(parameters=parameters, weight_decay=decay)])
                split.append(made | {"always_adapt": adapted})
    return split
