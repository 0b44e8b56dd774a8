"""k nearest neighbours on backbone features: there is no training, so the accuracy depends only on the features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor

from cl.data.loader import EvalLoader
from cl.distributed import sum_over_ranks
from cl.evaluation.features import Labelled, extract_features
from cl.evaluation.online.metrics import MeasuredModule
from cl.nn.finite import measurable

CHUNK = 1024  # queries at a time: all of ImageNet against its bank would take 4 GB
# Reported with the accuracy: accuracies for different k or temperatures do not compare (lightly#1824).
K = 200  # during pretraining
TEMPERATURE = 0.1
EVALUATION_KS = (20, 200)  # in main_linear, each with each of the temperatures
EVALUATION_TEMPERATURES = (0.07, 0.1)


def knn_scores(bank: Tensor, labels: Tensor, queries: Tensor, k: int = K, temperature: float = TEMPERATURE) -> Tensor:
    """[Q, C] votes for each class, by similarity-weighted nearest neighbours (InstDisc, arXiv 1805.01978, section 3.4).

    A neighbour with cosine similarity s votes exp(s / temperature) for its class. Ties are broken by the order of the
    bank: the first of equally near images are the neighbours.

    Args:
        bank: [N, F] features, l2-normalised here, like the queries.
        labels: [N] int64 in [0, C); C is the largest label plus one.
        queries: [Q, F].
        k: number of neighbours; N if the bank is smaller.
        temperature: above 0.
    """
    bank = F.normalize(bank.float(), dim=1)
    queries = F.normalize(queries.float(), dim=1)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, device=queries.device)
    for query_chunk, vote_chunk in zip(queries.split(CHUNK), votes.split(CHUNK), strict=True):
        similarity, neighbours = _nearest(query_chunk @ bank.T, min(k, len(bank)))
        # Shifted by the largest possible similarity, so that a small temperature cannot overflow.
        vote_chunk.scatter_add_(1, labels[neighbours], ((similarity - 1) / temperature).exp())
    return votes


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of each row of [Q, N]; topk alone picks any of those tied for the last."""
    values, indices = similarity.topk(k, dim=1)
    tied = (similarity >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        indices[tied] = similarity[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return values, indices


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
        counts = torch.zeros(2, dtype=torch.float64, device=module.device)  # correct answers, images
        if queries is not None:
            votes = knn_scores(bank.features, bank.targets, queries.features)
            correct = (votes.argmax(dim=1) == queries.targets).sum()
            counts[0] = correct.double().where(measurable(queries.features).all(), torch.nan)
            counts[1] = len(queries.targets)
        correct, images = sum_over_ranks(counts).tolist()
        return {"knn/val_top1": correct / images} if images else {}

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return epoch % self.every == 0 or epoch == trainer.max_epochs or trainer.should_stop


def _labelled(batches: Sequence[Labelled]) -> Labelled | None:
    """The images that have a label; None if no image has one."""
    if not batches:
        return None
    features, targets = (torch.cat(column) for column in zip(*batches, strict=True))
    labelled = Labelled(features[targets >= 0], targets[targets >= 0])
    return labelled if len(labelled.targets) else None
