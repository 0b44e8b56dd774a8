"""Run images through a frozen network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.distributed import gather_uneven


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


def extract_features(network: nn.Module, batches: Iterable[Batch], device: torch.device) -> Labelled:
    """The outputs of `network` for the evaluation batches of all processes, in image order."""
    with evaluating(network):
        on_device = (batch.to(device) for batch in batches)
        outputs = [(batch.index, network(batch.views[0][0]), batch.target) for batch in on_device]
    index, features, targets = (torch.cat(column) for column in zip(*outputs, strict=True))
    return Labelled(*gather_in_order(index, features, targets))


def gather_in_order(index: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Gather columns [N_r, ...] of the images `index` [N_r] from all processes -> [N, ...] in image order."""
    order = gather_uneven(index).argsort()
    return tuple(gather_uneven(column)[order] for column in columns)
