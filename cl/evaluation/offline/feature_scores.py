"""Validation accuracy of frozen features by nearest neighbours and by probes on a few labels."""

import statistics
from collections.abc import Sequence

import torch

from cl.data.loader import EvalLoader
from cl.distributed import broadcast_from_rank_zero
from cl.evaluation.features import Labelled, extract_features
from cl.evaluation.offline.few_labels import LABELS, few_labels_accuracies
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.evaluation.online.knn import EVALUATION_KS, EVALUATION_TEMPERATURES, knn_scores
from cl.evaluation.online.metrics import correct_if_finite, correct_within


def knn_metric(k: int, temperature: float) -> str:
    return f"knn_k{k}_t{temperature:g}/val_top1"


def few_labels_metric(labels: int) -> str:
    """The column with the mean over the draws; their standard deviation has the suffix `_std`."""
    return f"few_shot_{labels}/val_top1"


def feature_scores(bank: Labelled, queries: Labelled, few_shot: bool) -> dict[str, float]:
    """Accuracies of kNN and, with `few_shot`, of few-label probes; features [N, F] and [Q, F], all labelled."""
    scores = {}
    for k in EVALUATION_KS:
        for temperature in EVALUATION_TEMPERATURES:
            votes = knn_scores(bank.features, bank.targets, queries.features, k, temperature)
            scores[knn_metric(k, temperature)] = float((votes.argmax(dim=1) == queries.targets).double().mean())
    for labels in LABELS if few_shot else ():
        draws = _few_labels(bank, queries, labels)
        scores[few_labels_metric(labels)] = statistics.mean(draws)
        scores[f"{few_labels_metric(labels)}_std"] = statistics.stdev(draws)
    return scores


def _few_labels(bank: Labelled, queries: Labelled, labels: int) -> Sequence[float]:
    return broadcast_from_rank_zero(lambda: few_labels_accuracies(*bank, *queries, labels))


def head_accuracy(linear: LinearEvaluation, queries: Labelled) -> dict[str, float]:
    """Validation accuracy of the best head: top-1, and top-5 if there are more than five classes."""
    with torch.no_grad():
        logits = linear.head(queries.features)
    correct = {
        f"{linear.name}/val_top{k}": correct_if_finite(correct_within(logits, queries.targets, k), logits)
        for k in (1, 5)
        if k == 1 or logits.shape[1] > k
    }
    return {name: float(count) / len(queries.targets) for name, count in correct.items()}


def labelled_only(images: Labelled) -> Labelled:
    """The images that have a label."""
    return Labelled(images.features[images.targets >= 0], images.targets[images.targets >= 0])


class ValidateOnce:
    """A measurement after the last epoch, the only one of a grid that uses the validation images."""

    def __init__(self, bank: EvalLoader, queries: EvalLoader) -> None:
        self.bank = bank
        self.queries = queries

    def __call__(self, linear: LinearEvaluation) -> dict[str, float]:
        trainer = linear.trainer
        if trainer.current_epoch + 1 != trainer.max_epochs and not trainer.should_stop:
            return {}
        bank = extract_features(linear.backbone, self.bank, linear.device)
        queries = labelled_only(extract_features(linear.backbone, self.queries, linear.device))
        if not len(queries.targets):
            return {}
        accuracy = head_accuracy(linear, queries) if len(linear.grid) > 1 else {}  # a single head: in every epoch
        return accuracy | feature_scores(bank, queries, linear.config.few_shot)
