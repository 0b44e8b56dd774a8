"""What a few labels are worth: logistic regression on frozen features."""

import warnings

import numpy as np
from torch import Tensor

from cl.data.views.draws import Ints

LABELS = (1, 5, 10)
DRAWS = 10


def sample_per_class(targets: Ints, count: int, draw: int) -> Ints:
    """Indices of `count` images of each class in `targets` [N], or of all where there are fewer; class by class."""
    generator = np.random.default_rng(draw)
    of_each = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    return np.concatenate([generator.permutation(each)[:count] for each in of_each])


def few_labels_accuracies(bank: Tensor, labels: Tensor, queries: Tensor, targets: Tensor, count: int) -> list[float]:
    """Accuracy on the queries, for each of ten draws of `count` labels a class.

    scikit-learn's LogisticRegression (L2 with C = 1, multinomial, lbfgs) on features standardised by the mean and
    standard deviation of the images that were drawn.

    Args:
        bank: [N, F] features to draw from, and labels: [N] int64.
        queries: [Q, F], and targets: [Q].
        count: labels a class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y, seen, right = (each.cpu().numpy() for each in (bank, labels, queries, targets))
    found = []
    for draw in range(DRAWS):
        chosen = sample_per_class(y, count, draw)
        scale = StandardScaler().fit(x[chosen])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe = LogisticRegression(max_iter=2000).fit(scale.transform(x[chosen]), y[chosen])
        found.append(float(probe.score(scale.transform(seen), right)))
    return found
