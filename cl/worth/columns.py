"""The columns of the table: which test images each way of using the features classifies correctly."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cl.config.programs import Linear, config_parts, preset_layers, resolve_values
from cl.data.splitting.kept_arrays import kept
from cl.evaluation.features import Labelled
from cl.evaluation.offline.feature_grid import HeadTraining, train_best_head
from cl.evaluation.offline.few_labels import LABELS, few_labels_answers
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.evaluation.online.knn import knn_scores
from cl.optim.schedules import Budget
from cl.worth.features import kept_file
from cl.worth.statistics import Answers, Differences, Interval, mcnemar, over_images, over_images_and_draws, paired

K = 20  # neighbours: few, for data sets may be small
TEMPERATURE = 0.07
KNN = f"kNN (k {K}, T {TEMPERATURE})"
LINEAR = "linear, all labels"


def few(count: int) -> str:
    return f"{count} label{'s' if count > 1 else ''} a class"


VERDICT = few(10)  # the column of the sentence, fixed in advance: nothing is chosen on images there
# Per column, the interval of the mean of the differences of two networks.
DIFFERENCE: Mapping[str, Callable[[Differences], Interval]] = {
    KNN: over_images,
    **{few(count): over_images_and_draws for count in LABELS},
    LINEAR: mcnemar,
}


class Evaluation(NamedTuple):
    """Features of one network: of the images to learn from, [N, V, F] with mirror images, and of those to test on."""

    bank: Labelled
    test: Labelled  # [Q, F]
    classes: int
    config: Linear  # of the linear head


def answers_of(evaluation: Evaluation) -> Mapping[str, Answers]:
    """Whether each test image is classified correctly, [R, Q] per column; kept for the same features and labels."""
    digest = hashlib.sha256(repr((evaluation.classes, evaluation.config.optim, evaluation.config.views)).encode())
    for tensor in (*evaluation.bank, *evaluation.test):
        digest.update(tensor.contiguous().numpy().tobytes())
    answers = kept(kept_file("answers", digest.hexdigest()), lambda: _answers(evaluation))
    return {column: answers[column] for column in DIFFERENCE}


def differences_of(a: Mapping[str, Answers], b: Mapping[str, Answers]) -> dict[str, Interval]:
    """How much more accurate b is than a, per column."""
    return {column: interval(paired(a[column], b[column])) for column, interval in DIFFERENCE.items()}


def _answers(evaluation: Evaluation) -> dict[str, Answers]:
    features, targets = evaluation.test
    bank = Labelled(evaluation.bank.features[:, 0], evaluation.bank.targets)
    votes = knn_scores(*bank, features, K, TEMPERATURE)
    answers = {KNN: (votes.argmax(dim=1) == targets).numpy()[None]}
    for count in LABELS:
        answers[few(count)] = few_labels_answers(*bank, features, targets, count)
    answers[LINEAR] = _linear_answers(evaluation)[None]
    return answers


def _linear_answers(evaluation: Evaluation) -> Answers:
    """Those of the best head of the grid of `main_linear --protocol cached`."""
    config = evaluation.config
    bank, test, classes, _ = evaluation
    training = HeadTraining(
        config.run,
        batch=min(config.data.batch_size, len(bank.targets)),
        flip_prob=config.views.flip_prob,
        fill=config.data.last_batch_fill,
    )
    sampler = training.sampler(len(bank.targets))
    budget = Budget.of(config.run, sampler.batch_size, len(sampler))
    features = nn.Identity()
    features.num_features = bank.features.shape[2]  # type: ignore[assignment]
    state = torch.get_rng_state()
    torch.manual_seed(config.run.seed)
    linear = LinearEvaluation(features, classes, config, budget)  # type: ignore[arg-type]
    torch.set_rng_state(state)
    train_best_head(linear, bank, training)
    with torch.no_grad():
        return np.asarray(linear.head(test.features).argmax(dim=1) == test.targets)


def linear_config(dataset: str) -> Linear:
    """The flags of `main_linear DATASET --protocol cached`, with its presets."""
    flags = {"dataset": dataset, "protocol": "cached", "pretrained_feature_extractor": "the runs"}
    parts = config_parts(Linear, None)
    values, _ = resolve_values(parts, preset_layers(Linear, flags, None))
    configs: dict[str, Any] = {name: part(**values[name]) for name, part in parts.items()}
    return Linear(**configs)
