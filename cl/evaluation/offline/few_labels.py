"""Few-label evaluation: logistic regression on frozen features."""

import warnings

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cl.data.views.draws import Ints

LABELS = (1, 5, 10)
DRAWS = 10


def sample_per_class(targets: Ints, count: int, draw: int) -> Ints:
    """Indices of at most `count` random images of each class in `targets` [N], sorted by class."""
    generator = np.random.default_rng(draw)
    by_class = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    return np.concatenate([generator.permutation(members)[:count] for members in by_class])


def few_labels_accuracies(bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, count: int) -> list[float]:
    """Accuracy on the queries for each of ten draws of `count` labels per class."""
    return [float(right.mean()) for right in few_labels_answers(bank, labels, queries, targets, count)]


def few_labels_answers(bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, count: int) -> NDArray[np.bool_]:
    """Whether each query is classified correctly with each of ten draws of `count` labels per class, [R, Q].

    scikit-learn's LogisticRegression (L2 with C = 1, multinomial, lbfgs) on features standardised by the mean and
    standard deviation of the drawn images. The draws depend on the labels only, so they are the same for all features.

    Args:
        bank: [N, F] features to draw from.
        labels: [N] int64, of the bank.
        queries: [Q, F] features.
        targets: [Q] int64, of the queries.
        count: labels per class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = bank.cpu().numpy(), labels.cpu().numpy()
    x_val, y_val = queries.cpu().numpy(), targets.cpu().numpy()
    classes = np.unique(y)
    if len(classes) == 1:  # scikit-learn refuses it; the answer is always this class, as with kNN
        return np.tile(y_val == classes, (DRAWS, 1))
    right = np.empty((DRAWS, len(y_val)), np.bool_)
    for draw in range(DRAWS):
        chosen = sample_per_class(y, count, draw)
        scaler = StandardScaler().fit(x[chosen])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe = LogisticRegression(max_iter=2000).fit(scaler.transform(x[chosen]), y[chosen])
        right[draw] = probe.predict(scaler.transform(x_val)) == y_val
    return right
