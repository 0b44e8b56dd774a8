"""Images through a frozen network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.distributed import gather_uneven


class Labelled(NamedTuple):
    """Features [N, ...] of images, and their targets [N]."""

    features: Tensor
    targets: Tensor


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and the mode that it was in afterwards."""
    training = network.training
    network.eval()
    with torch.no_grad():
        yield
    network.train(training)


def extract_features(network: nn.Module, batches: Iterable[Batch], device: torch.device) -> Labelled:
    """What `network` makes of the evaluation batches of all processes, in the order of the images."""
    with evaluating(network):
        moved = (batch.to(device) for batch in batches)
        found = [(batch.index, network(batch.views[0][0]), batch.target) for batch in moved]
    return Labelled(*gather_in_order(*(torch.cat(each) for each in zip(*found, strict=True))))


def gather_in_order(index: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """Rows [N_r, ...] of the images `index` [N_r] of each process -> [N, ...] in the order of all images."""
    order = gather_uneven(index).argsort()
    return tuple(gather_uneven(each)[order] for each in rows)
