"""Evaluation metrics match their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from cl.batch import Batch
from cl.evaluation.features import extract_features
from cl.evaluation.offline.few_labels import few_labels_accuracies, sample_per_class
from cl.evaluation.online.epoch_means import EpochMeans
from cl.evaluation.online.knn import knn_scores
from cl.evaluation.online.metrics import correct_within
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.nn.heads import linear_head
from tests import reference

generator = torch.Generator().manual_seed(0)
BANK = torch.randn(60, 5, generator=generator)
LABELS = torch.randint(0, 7, (60,), generator=generator)
QUERIES = torch.randn(40, 5, generator=generator)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (200, 0.1), (20, 0.005)])
def test_knn_matches_its_definition_with_k_limited_to_the_bank(k: int, temperature: float) -> None:
    ours = knn_scores(BANK, LABELS, QUERIES, k, temperature).argmax(dim=1).tolist()
    bank, labels = BANK.double().numpy(), LABELS.numpy()
    theirs = [reference.knn(bank, labels, query, min(k, 60), temperature) for query in QUERIES.double().numpy()]
    assert ours == theirs


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (200, 0.1)])
def test_knn_matches_scikit_learn_with_the_same_weights(k: int, temperature: float) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    bank, queries = (nn.functional.normalize(features.double()).numpy() for features in (BANK, QUERIES))
    theirs = KNeighborsClassifier(min(k, 60), weights=lambda d: np.exp(-(d**2) / 2 / temperature))  # |a - b|^2 = 2 - 2s
    votes = theirs.fit(bank, LABELS.numpy()).predict_proba(queries)
    scores = knn_scores(BANK, LABELS, QUERIES, k, temperature)
    np.testing.assert_allclose((scores / scores.sum(dim=1, keepdim=True)).numpy(), votes, atol=1e-5)
    assert np.array_equal(scores.argmax(dim=1).numpy(), theirs.predict(queries))


def test_ties_in_distance_go_to_the_first_images_and_ties_in_votes_to_the_first_class() -> None:
    """Normalised entries are +-1/2: their products are exact, so ties are exact."""
    from sklearn.neighbors import KNeighborsClassifier

    near, far = torch.tensor([1.0, 1, 1, 1]), torch.tensor([1.0, 1, 1, -1])
    bank = torch.stack([far, near, near, near, far])
    labels = torch.tensor([3, 2, 1, 1, 0])
    for k, expected in {1: [2], 2: [1, 2], 3: [1, 2], 4: [1, 2, 3], 5: [0, 1, 2, 3]}.items():
        (scores,) = knn_scores(bank, labels, near[None], k)
        assert scores.nonzero().flatten().tolist() == expected
    assert knn_scores(bank, labels, near[None], k=2).argmax() == 1  # classes 1 and 2 have one vote each
    tied_labels = torch.tensor([2, 2, 1, 1])
    for k in (4, 200):
        theirs = KNeighborsClassifier(4, weights="distance" if k > 4 else "uniform").fit(far.repeat(4, 1), tied_labels)
        assert theirs.predict(near[None])[0] == knn_scores(far.repeat(4, 1), tied_labels, near[None], k).argmax() == 1


def test_the_first_images_of_a_large_bank_of_duplicates_vote() -> None:
    bank, labels = torch.ones(3000, 4), torch.arange(3000) % 7
    scores = knn_scores(bank, labels, bank[:2], k=9, temperature=0.1)
    assert scores.tolist() == [[2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]] * 2  # images 0 to 8


def test_few_labels_are_drawn_per_class_and_standardised_by_the_drawn_images() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 4], [40, 40, 3])
    bank = torch.from_numpy(generator.normal(size=(83, 6)) + labels[:, None]).float()
    queries, targets = bank + 0.5, torch.from_numpy(labels)
    accuracies = few_labels_accuracies(bank, targets, queries, targets, count=5)
    drawn = [sample_per_class(labels, 5, draw) for draw in range(10)]
    assert all(np.bincount(labels[indices]).tolist() == [5, 5, 0, 0, 3] for indices in drawn)
    assert len({tuple(indices) for indices in drawn}) == 10
    for accuracy, indices in zip(accuracies, drawn, strict=True):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
        assert accuracy == theirs.fit(bank[indices], labels[indices]).score(queries, labels)


def test_the_nearest_neighbour_of_a_bank_image_is_itself() -> None:
    assert torch.equal(knn_scores(BANK, LABELS, BANK, k=1).argmax(dim=1), LABELS)


def test_knn_accepts_labels_with_gaps() -> None:
    scores = knn_scores(BANK, LABELS * 3, QUERIES)
    assert scores.shape == (40, int(LABELS.max()) * 3 + 1)
    assert set((scores > 0).nonzero()[:, 1].tolist()) <= set((LABELS * 3).tolist())


def test_correct_within_k_counts_targets_among_the_k_largest_logits() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    target = torch.tensor([0, 1, -1])
    assert correct_within(logits, target, 1) == 1
    assert correct_within(logits, target, 2) == 2
    assert correct_within(logits, target, 3) == 2  # an image without a label is never correct


def test_probe_loss_is_the_mean_over_labelled_rows_and_zero_without_any() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = torch.tensor([0, -1, 2, -1, 3, 1])
    expected = nn.functional.cross_entropy(logits[target >= 0], target[target >= 0])
    loss, total = labelled_cross_entropy(logits, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(total, 4 * expected)
    unlabelled_loss, _ = labelled_cross_entropy(logits, torch.full((6,), -1))
    unlabelled_loss.backward()
    assert unlabelled_loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_means_weight_uneven_batches_and_omit_metrics_without_samples() -> None:
    means = EpochMeans()
    means.add("loss", torch.tensor(6.0), 3)
    means.add("loss", torch.tensor(4.0), 1)
    means.add("accuracy", torch.tensor(0), torch.tensor(0))
    assert means.compute(all_processes=False) == {"loss": 2.5}
    means.reset()
    assert means.compute(all_processes=False) == {}


def test_a_first_step_that_is_undone_keeps_the_sums_of_the_checkpoint() -> None:
    means = EpochMeans()
    means.load({"loss": (10.0, 4.0)})
    before = means.copy()
    means.add("loss", torch.tensor(torch.nan), 1)
    means.restore_unless(torch.tensor(False), before)
    assert means.compute(all_processes=False) == {"loss": 2.5}


def test_a_linear_head_is_initialised_as_in_the_protocol() -> None:
    torch.manual_seed(0)
    head = linear_head(512, 100)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert (head.bias == 0).all()


def test_features_are_extracted_in_evaluation_mode_and_training_mode_is_restored() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12))
    network.train()
    images = torch.randn(1, 8, 3, 2, 2)
    batches = [Batch(torch.arange(8) + 8 * i, (images,), torch.arange(8)) for i in range(2)]
    features, targets = extract_features(network, batches, torch.device("cpu"))
    assert network.training
    assert features.shape == (16, 12)
    assert np.array_equal(targets.numpy(), np.tile(np.arange(8), 2))
    assert network[1].num_batches_tracked == 0  # type: ignore[union-attr]
