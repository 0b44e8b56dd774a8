"""k nearest neighbours on backbone features: no training, so the accuracy depends on nothing but the features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor

from cl.data.loader import EvalLoader
from cl.distributed import sum_over_ranks
from cl.evaluation.features import Labelled, extract_features
from cl.evaluation.online.metrics import MeasuredModule

CHUNK = 1024  # queries at a time: all of ImageNet against its bank would take 4 GB
K = 200  # stated wherever the accuracy is: with another k or temperature it is another one (lightly#1824)
TEMPERATURE = 0.1


def knn_scores(bank: Tensor, labels: Tensor, queries: Tensor, k: int = K, temperature: float = TEMPERATURE) -> Tensor:
    """[Q, C] votes for each class, by similarity-weighted nearest neighbours (InstDisc, arXiv 1805.01978, section 3.4).

    A neighbour with cosine similarity s votes exp(s / temperature) for its class. Of images that are equally near, the
    first ones of the bank are the neighbours.

    Args:
        bank: [N, F] features, l2-normalised here, like the queries.
        labels: [N] int64 in [0, C); C is one more than the largest.
        queries: [Q, F].
        k: neighbours, at most N of them.
        temperature: above 0.
    """
    bank = F.normalize(bank.float(), dim=1)
    queries = F.normalize(queries.float(), dim=1)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, device=queries.device)
    for some, sums in zip(queries.split(CHUNK), votes.split(CHUNK), strict=True):
        similarity, neighbours = _nearest(some @ bank.T, min(k, len(bank)))
        # Shifted by the largest possible similarity, so that a small temperature cannot overflow.
        sums.scatter_add_(1, labels[neighbours], ((similarity - 1) / temperature).exp())
    return votes


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of [Q, N] and where they are; topk alone takes any of several that tie for the last."""
    found, place = similarity.topk(k, dim=1)
    tied = (similarity >= found[:, -1:]).sum(dim=1) > k
    if tied.any():
        place[tied] = similarity[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return found, place


class OnlineKNN:
    """A measurement: kNN accuracy of the validation images in a bank of training images, every few epochs."""

    def __init__(self, bank: EvalLoader, every: int) -> None:
        self.bank = bank
        self.every = every

    def __call__(self, module: MeasuredModule) -> dict[str, float]:
        if not self._due(module.trainer):
            return {}
        bank = extract_features(module, self.bank, module.device)
        queries = _labelled(module.validation)
        right = torch.zeros(2, dtype=torch.float64, device=module.device)  # right answers, and of how many
        if queries is not None:
            votes = knn_scores(bank.features, bank.targets, queries.features)
            right[0] = (votes.argmax(dim=1) == queries.targets).sum()
            right[1] = len(queries.targets)
        correct, images = sum_over_ranks(right).tolist()
        return {"knn/val_top1": correct / images} if images else {}

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return epoch % self.every == 0 or epoch == trainer.max_epochs or trainer.should_stop


def _labelled(batches: Sequence[Labelled]) -> Labelled | None:
    """The images that have a label; None if there are none."""
    if not batches:
        return None
    features, targets = (torch.cat(each) for each in zip(*batches, strict=True))
    found = Labelled(features[targets >= 0], targets[targets >= 0])
    return found if len(found.targets) else None
