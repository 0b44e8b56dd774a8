"""Images through a frozen network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cl.batch import Batch


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and the mode that it was in afterwards."""
    training = network.training
    network.eval()
    with torch.no_grad():
        yield
    network.train(training)


def features_of(network: nn.Module, batches: Iterable[Batch], device: torch.device) -> tuple[Tensor, Tensor]:
    """Features [N, F] and targets [N] of evaluation batches."""
    with evaluating(network):
        found = [(network(batch.views[0][0].to(device)), batch.target.to(device)) for batch in batches]
    if not found:
        return torch.zeros(0, 1, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    return torch.cat([features for features, _ in found]), torch.cat([target for _, target in found])
