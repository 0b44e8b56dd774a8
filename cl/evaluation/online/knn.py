"""k nearest neighbours on backbone features: no training, so the number depends on nothing but the features."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cl.batch import Batch
from cl.data.loader import EvalLoader
from cl.evaluation.features import features_of
from cl.evaluation.online.metrics import MeasuredModule

CHUNK = 1024  # queries at a time: all of ImageNet against its bank would take 4 GB
K, TEMPERATURE = 200, 0.1  # stated wherever the number is: other values are other numbers (lightly#1824)


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
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
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


class OnlineKNN(Callback):
    """kNN accuracy of the validation images in a bank of training images, every few epochs and after the last."""

    def __init__(self, bank: EvalLoader, every: int) -> None:
        self.bank, self.every = bank, every
        self._queries: list[tuple[Tensor, Tensor]] = []

    def _due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        return epoch % self.every == 0 or epoch == trainer.max_epochs or trainer.should_stop

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._queries.clear()

    def on_validation_batch_end(  # the signature is Lightning's
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._due(trainer):
            self._queries.append((outputs, batch.target))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuredModule)
        if self._due(trainer) and len(self.bank):
            bank, labels = features_of(pl_module, self.bank, pl_module.device)
            queries, targets = (torch.cat(each) for each in zip(*self._queries, strict=True))
            queries, targets = queries[targets >= 0], targets[targets >= 0]
            if len(queries):
                right = knn_scores(bank, labels, queries).argmax(dim=1) == targets
                pl_module.means.add("knn/val_top1", right.sum(), len(queries))
