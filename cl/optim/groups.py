"""Parameter groups, each with its learning rate, weight decay and kind of step."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer


class Group(NamedTuple):
    """Parameters with the same optimizer settings."""

    parameters: Sequence[nn.Parameter]
    lr: float  # the peak, scaled to the global batch
    weight_decay: float
    scheduled: bool = True  # False: the learning rate is constant, as for SimSiam's predictor
    adapted: bool = True  # False: LARS takes plain SGD steps
    frozen_steps: int = 0  # optimizer steps before it starts to learn
    decay_scheduled: bool = False  # True: the weight decay changes along --weight_decay_end


def by_layer(group: Group, layers: Sequence[Sequence[nn.Parameter]], decay: float) -> list[Group]:
    """A group for each layer, from the input up; the last one learns at `decay` times the group's rate.

    Each layer has `decay` times the rate of the layer above it, and a head above the last one has the group's rate, as
    in ELECTRA (arXiv 2003.10555), BEiT (2106.08254) and DINOv2 (2304.07193). A decay of 1 gives one group.
    """
    if decay == 1:
        return [group._replace(parameters=[parameter for layer in layers for parameter in layer])]
    rates = [group.lr * decay ** (len(layers) - number) for number in range(len(layers))]
    return [group._replace(parameters=layer, lr=rate) for layer, rate in zip(layers, rates, strict=True)]


def torch_groups(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Parameter groups for torch's optimizers."""
    return [_torch_group(group) for group in groups]


def _torch_group(group: Group) -> dict[str, Any]:
    options = {
        "params": list(group.parameters),
        "lr": group.lr,
        "weight_decay": group.weight_decay,
        "scheduled": group.scheduled,
        "frozen_steps": group.frozen_steps,
    }
    # Only where it is used: the groups of older checkpoints do not have it.
    return options | {"decay_scheduled": True} if group.decay_scheduled else options


def without_decay_of_vectors(groups: Iterable[Group]) -> list[Group]:
    """The same groups, with biases and norms (parameters of one dimension) in groups of their own without decay."""
    split = []
    for group in groups:
        decayed = group.weight_decay > 0 or group.decay_scheduled
        matrices, vectors = _by_shape(group.parameters) if decayed else (group.parameters, [])
        split.append(group._replace(parameters=matrices))
        split.append(group._replace(parameters=vectors, weight_decay=0.0, decay_scheduled=False))
    return [group for group in split if group.parameters]


def lars_groups(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Parameter groups for timm's Lars: biases and norms get plain steps and no weight decay (SimCLR).

    `always_adapt` is set for every group: by default Lars silently does not adapt groups whose decay is 0.
    """
    split = []
    for group in groups:
        matrices, plain = _by_shape(group.parameters) if group.adapted else ([], group.parameters)
        if matrices:
            split.append(_torch_group(group._replace(parameters=matrices)) | {"always_adapt": True})
        if plain:
            without_decay = group._replace(parameters=plain, weight_decay=0.0, decay_scheduled=False)
            split.append(_torch_group(without_decay) | {"always_adapt": False})
    return split


def set_weight_decay(optimizer: Optimizer, value: float) -> None:
    """Set the decay of the groups whose decay is scheduled, for the next step."""
    for group in optimizer.param_groups:
        if "decay_scheduled" in group:
            group["weight_decay"] = value


def _by_shape(parameters: Sequence[nn.Parameter]) -> tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]]:
    """Matrices and kernels; biases and norms, which have one dimension."""
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
