"""Run images through a frozen network."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.distributed import all_or_none, gather_uneven, stop_together
from cl.errors import NOT_FINITE
from cl.nn.finite import measurable


class Labelled(NamedTuple):
    """Features [N, ...] of images and their targets [N]."""

    features: Tensor
    targets: Tensor


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the previous mode is restored afterwards."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def extract_features(
    network: nn.Module, batches: Iterable[Batch], device: torch.device, name_of: Callable[[int], object] = str
) -> Labelled:
    """The outputs of `network` for the evaluation batches of all processes, in image order.

    Stopped if they are not finite for some image, which `name_of` names by its index.
    """
    index, features, targets = all_or_none(lambda: _outputs(network, batches, device))
    order, features, targets = gather_in_order(index, index, features, targets)
    _refuse_non_finite(features, order, name_of)
    return Labelled(features, targets)


def _outputs(network: nn.Module, batches: Iterable[Batch], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Index, outputs and targets of this process's images."""
    with evaluating(network):
        on_device = (batch.to(device) for batch in batches)
        outputs = [(batch.index, network(batch.views[0][0]), batch.target) for batch in on_device]
    index, features, targets = (torch.cat(column) for column in zip(*outputs, strict=True))
    return index, features, targets


def _refuse_non_finite(features: Tensor, index: Tensor, name_of: Callable[[int], object]) -> None:
    bad = index[~measurable(features).view(len(features), -1).all(dim=1)].tolist()
    if bad:
        message = (
            f"the features of {len(bad)} of {len(features)} images are not finite, the first of image "
            f"{name_of(bad[0])}: the weights have diverged or are damaged"
        )
        stop_together(message, NOT_FINITE)


def gather_in_order(index: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Gather columns [N_r, ...] of the images `index` [N_r] from all processes -> [N, ...] in image order."""
    order = gather_uneven(index).argsort()
    return tuple(gather_uneven(column)[order] for column in columns)
