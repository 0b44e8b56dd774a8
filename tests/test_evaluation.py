"""What evaluation measures is what its definitions say."""

import numpy as np
import pytest
import torch
from torch import nn

from cl.batch import Batch
from cl.evaluation.features import extract_features
from cl.evaluation.offline.few_labels import few_labels_accuracies, sample_per_class
from cl.evaluation.online.knn import knn_scores
from cl.evaluation.online.metrics import EpochMeans, correct_within
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.nn.heads import linear_head
from tests import reference

generator = torch.Generator().manual_seed(0)
BANK = torch.randn(60, 5, generator=generator)
LABELS = torch.randint(0, 7, (60,), generator=generator)
QUERIES = torch.randn(40, 5, generator=generator)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (200, 0.1), (20, 0.005)])
def test_knn_votes_as_defined_and_k_is_clamped_to_the_bank(k: int, temperature: float) -> None:
    ours = knn_scores(BANK, LABELS, QUERIES, k, temperature).argmax(dim=1).tolist()
    bank, labels = BANK.double().numpy(), LABELS.numpy()
    theirs = [reference.knn(bank, labels, query, min(k, 60), temperature) for query in QUERIES.double().numpy()]
    assert ours == theirs


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (200, 0.1)])
def test_knn_is_scikit_learns_with_the_same_weights(k: int, temperature: float) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    bank, queries = (nn.functional.normalize(each.double()).numpy() for each in (BANK, QUERIES))
    theirs = KNeighborsClassifier(min(k, 60), weights=lambda d: np.exp(-(d**2) / 2 / temperature))  # |a - b|^2 = 2 - 2s
    votes = theirs.fit(bank, LABELS.numpy()).predict_proba(queries)
    scores = knn_scores(BANK, LABELS, QUERIES, k, temperature)
    np.testing.assert_allclose((scores / scores.sum(dim=1, keepdim=True)).numpy(), votes, atol=1e-5)
    assert np.array_equal(scores.argmax(dim=1).numpy(), theirs.predict(queries))


def test_of_equally_near_images_the_first_ones_vote_and_of_equal_votes_the_first_class_wins() -> None:
    """Entries +-1/2: their products are exact, so that ties are ties."""
    from sklearn.neighbors import KNeighborsClassifier

    near, far = torch.tensor([1.0, 1, 1, 1]), torch.tensor([1.0, 1, 1, -1])
    bank = torch.stack([far, near, near, near, far])
    labels = torch.tensor([3, 2, 1, 1, 0])
    for k, expected in {1: [2], 2: [1, 2], 3: [1, 2], 4: [1, 2, 3], 5: [0, 1, 2, 3]}.items():
        (scores,) = knn_scores(bank, labels, near[None], k)
        assert scores.nonzero().flatten().tolist() == expected
    assert knn_scores(bank, labels, near[None], k=2).argmax() == 1  # of one vote for each of 1 and 2
    equal = torch.tensor([2, 2, 1, 1])
    for k in (4, 200):
        theirs = KNeighborsClassifier(4, weights="distance" if k > 4 else "uniform").fit(far.repeat(4, 1), equal)
        assert theirs.predict(near[None])[0] == knn_scores(far.repeat(4, 1), equal, near[None], k).argmax() == 1


def test_a_large_bank_of_duplicates_is_no_lottery() -> None:
    bank, labels = torch.ones(3000, 4), torch.arange(3000) % 7
    scores = knn_scores(bank, labels, bank[:2], k=9, temperature=0.1)
    assert scores.tolist() == [[2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]] * 2  # images 0 to 8


def test_few_labels_are_drawn_from_each_class_and_scaled_by_what_was_drawn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 4], [40, 40, 3])
    bank = torch.from_numpy(generator.normal(size=(83, 6)) + labels[:, None]).float()
    queries, targets = bank + 0.5, torch.from_numpy(labels)
    found = few_labels_accuracies(bank, targets, queries, targets, count=5)
    drawn = [sample_per_class(labels, 5, draw) for draw in range(10)]
    assert all(np.bincount(labels[each]).tolist() == [5, 5, 0, 0, 3] for each in drawn)
    assert len({tuple(each) for each in drawn}) == 10
    for accuracy, chosen in zip(found, drawn, strict=True):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
        assert accuracy == theirs.fit(bank[chosen], labels[chosen]).score(queries, labels)


def test_knn_finds_itself() -> None:
    assert torch.equal(knn_scores(BANK, LABELS, BANK, k=1).argmax(dim=1), LABELS)


def test_knn_takes_labels_with_gaps() -> None:
    scores = knn_scores(BANK, LABELS * 3, QUERIES)
    assert scores.shape == (40, int(LABELS.max()) * 3 + 1)
    assert set((scores > 0).nonzero()[:, 1].tolist()) <= set((LABELS * 3).tolist())


def test_correct_within_k() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    target = torch.tensor([0, 1, -1])
    assert correct_within(logits, target, 1) == 1
    assert correct_within(logits, target, 2) == 2
    assert correct_within(logits, target, 3) == 2  # no label is never right


def test_probe_loss_is_the_mean_over_labelled_rows_and_zero_without_any() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = torch.tensor([0, -1, 2, -1, 3, 1])
    expected = nn.functional.cross_entropy(logits[target >= 0], target[target >= 0])
    loss, total = labelled_cross_entropy(logits, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(total, 4 * expected)
    nothing, _ = labelled_cross_entropy(logits, torch.full((6,), -1))
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_means_weigh_uneven_batches_and_leave_out_what_was_never_seen() -> None:
    means = EpochMeans()
    means.add("loss", torch.tensor(6.0), 3)
    means.add("loss", torch.tensor(4.0), 1)
    means.add("accuracy", torch.tensor(0), torch.tensor(0))
    assert means.compute(all_processes=False) == {"loss": 2.5}
    means.reset()
    assert means.compute(all_processes=False) == {}


def test_a_linear_head_starts_as_the_protocol_says() -> None:
    torch.manual_seed(0)
    head = linear_head(512, 100)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.weight.mean().item() == pytest.approx(0, abs=2e-4)
    assert (head.bias == 0).all()


def test_features_are_taken_in_evaluation_mode_which_is_put_back() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12))
    network.train()
    images = torch.randn(1, 8, 3, 2, 2)
    batches = [Batch(torch.arange(8) + 8 * i, (images,), torch.arange(8)) for i in range(2)]
    features, targets = extract_features(network, batches, torch.device("cpu"))
    assert network.training
    assert features.shape == (16, 12)
    assert np.array_equal(targets.numpy(), np.tile(np.arange(8), 2))
    assert network[1].num_batches_tracked == 0  # type: ignore[union-attr]
