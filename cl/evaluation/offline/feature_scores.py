"""What frozen features are worth on the validation images: by nearest neighbours, and by a few labels."""

import statistics

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cl.data.loader import EvalLoader
from cl.distributed import from_first
from cl.evaluation.features import Labelled, features_of
from cl.evaluation.offline.few_labels import LABELS, few_shot_accuracies
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.evaluation.online.knn import knn_scores

NEIGHBOURS, TEMPERATURES = (20, 200), (0.07, 0.1)


def knn_metric(k: int, temperature: float) -> str:
    return f"knn_k{k}_t{temperature:g}/val_top1"


def few_shot_metric(labels: int) -> str:
    """The mean of the draws; their standard deviation is this and `_std`."""
    return f"few_shot_{labels}/val_top1"


def probes(bank: Labelled, queries: Labelled, few_shot: bool) -> dict[str, float]:
    """Accuracies of kNN and, with `few_shot`, of probes on few labels; features [N, F] and [Q, F]."""
    found = {}
    for k in NEIGHBOURS:
        for temperature in TEMPERATURES:
            votes = knn_scores(bank.features, bank.targets, queries.features, k, temperature)
            found[knn_metric(k, temperature)] = float((votes.argmax(dim=1) == queries.targets).double().mean())
    for labels in LABELS if few_shot else ():
        draws = from_first(lambda count=labels: few_shot_accuracies(*bank, *queries, count))  # type: ignore[misc]
        found[few_shot_metric(labels)] = statistics.mean(draws)
        found[f"{few_shot_metric(labels)}_std"] = statistics.stdev(draws)
    return found


def validate(linear: LinearEvaluation, bank: Labelled, queries: Labelled) -> None:
    """Give `linear` the numbers of the validation images, of which `queries` has those with a label."""
    chosen = queries.targets >= 0
    queries = Labelled(queries.features[chosen], queries.targets[chosen])
    linear.evaluated |= probes(bank, queries, linear.config.few_shot) if len(queries.targets) else {}
    if linear.config.protocol == "cached" or len(linear.pairs) > 1:  # else each epoch had them
        with torch.no_grad():
            linear.add_accuracy(f"{linear.name}/val", linear.head(queries.features), queries.targets)


class ValidateOnce(Callback):
    """`validate` after the last epoch: for a grid this is the only time that the validation images are read."""

    def __init__(self, bank: EvalLoader, queries: EvalLoader) -> None:
        self.bank, self.queries = bank, queries

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LinearEvaluation)
        if trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop:
            device = pl_module.device
            bank, queries = (features_of(pl_module.backbone, each, device) for each in (self.bank, self.queries))
            validate(pl_module, bank, queries)
