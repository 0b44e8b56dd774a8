"""The intervals of cl.worth: how often they call a difference where there is none, and find one that is there."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from cl.evaluation.offline.few_labels import few_labels_answers
from cl.worth.statistics import Interval, accuracy, mcnemar, over_images, over_images_and_draws, paired, wilson

REPETITIONS = 400
DRAWS = 10


def answers(generator: np.random.Generator, images: int, gain: float = 0.0) -> list[np.ndarray]:
    """Right and wrong answers [10, n] of two networks that differ in images and draws, but not in how good they are.

    An answer is right if a sum of normal variables is positive: how easy an image is, for both and for each network;
    how good a draw of the labels is, for both and for each; and the rest. `gain` is added for the second network.
    """
    normal = generator.standard_normal
    easy = 0.9 + 1.2 * normal((1, 1, images))
    own = 0.7 * normal((2, 1, images))
    draw = 0.15 * normal((1, DRAWS, 1))
    own_draw = 0.12 * normal((2, DRAWS, 1))
    rest = 0.7 * normal((2, DRAWS, images))
    first, second = easy + own + draw + own_draw + rest + gain * np.array([0, 1]).reshape(2, 1, 1) > 0
    return [first, second]


def excludes_zero(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def intervals(images: int, gain: float = 0.0) -> list[Interval]:
    generator = np.random.default_rng(0)
    return [over_images_and_draws(paired(*answers(generator, images, gain))) for _ in range(REPETITIONS)]


@pytest.mark.parametrize("images", [240, 360])
def test_two_exchangeable_networks_are_called_different_in_2_to_7_percent(images: int) -> None:
    found = intervals(images)
    called = np.mean([excludes_zero(interval) for interval in found])
    print(f"{images} images: {called:.3f}, half-width {np.mean([each.half_width for each in found]):.4f}")
    assert 0.02 <= called <= 0.07


@pytest.mark.parametrize("images", [240, 360])
def test_a_difference_of_twice_the_half_width_is_found_in_nine_of_ten(images: int) -> None:
    half = np.mean([interval.half_width for interval in intervals(images)])
    gains = np.linspace(0, 1, 21)
    effects = [np.mean([each.value for each in intervals(images, gain)[:100]]) for gain in gains]
    gain = float(np.interp(2 * half, effects, gains))
    found = intervals(images, gain)
    assert np.mean([each.value for each in found]) == pytest.approx(2 * half, rel=0.1)
    assert np.mean([each.low > 0 for each in found]) >= 0.9


def test_the_interval_is_that_of_the_formula_written_with_loops() -> None:
    d = np.random.default_rng(1).integers(-1, 2, (10, 25)).astype(float)
    rows = [sum(row) / 25 for row in d]
    columns = [sum(d[r][i] for r in range(10)) / 10 for i in range(25)]
    mean = sum(rows) / 10
    v_img = sum((x - mean) ** 2 for x in columns) / 24 / 25
    v_draw = sum((x - mean) ** 2 for x in rows) / 9 / 10
    freedom = (v_img + v_draw) ** 2 / (v_img**2 / 24 + v_draw**2 / 9)
    from scipy.stats import t

    half = t.ppf(0.975, freedom) * (v_img + v_draw) ** 0.5
    assert over_images_and_draws(d) == pytest.approx((mean, mean - half, mean + half))
    v_img = sum((x - rows[0]) ** 2 for x in d[0]) / 24 / 25
    half = t.ppf(0.975, 24) * v_img**0.5
    assert over_images(d[:1]) == pytest.approx((rows[0], rows[0] - half, rows[0] + half))


def test_the_interval_of_the_linear_column_excludes_zero_where_the_exact_mcnemar_test_rejects() -> None:
    images = 60
    for gained in range(16):
        for lost in range(16):
            d = np.zeros((1, images))
            d[0, :gained] = 1
            d[0, gained : gained + lost] = -1
            rejected = gained + lost > 0 and binomtest(gained, gained + lost).pvalue <= 0.05
            interval = mcnemar(d)
            assert excludes_zero(interval) == rejected, (gained, lost)
            assert interval.low <= interval.value <= interval.high


def test_networks_that_answer_alike_differ_by_nothing() -> None:
    same = np.random.default_rng(0).random((10, 50)) < 0.7
    d = paired(same, same)
    assert over_images_and_draws(d) == over_images(d[:1]) == mcnemar(d[:1]) == Interval(0, 0, 0)


def test_an_accuracy_has_an_interval_within_0_and_1_that_is_never_a_point() -> None:
    for right in (np.ones((1, 40), bool), np.zeros((1, 40), bool)):
        interval = wilson(right)
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        assert interval.half_width > 0.02
    few = np.random.default_rng(0).random((10, 40)) < 0.98
    assert 0 <= accuracy(few).low < accuracy(few).value < accuracy(few).high <= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_few_label_probes_of_two_halves_of_the_same_kind_are_called_different_in_2_to_7_percent() -> None:
    """With the probes themselves: the halves of symmetric features are two networks that are exactly equally good."""
    generator = np.random.default_rng(0)
    means = np.tile(generator.standard_normal((5, 8)) * 0.75, 2)  # of five classes, the same in both halves

    def draw(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = np.arange(images) % 5
        shared = np.tile(generator.standard_normal((images, 8)), 2)
        features = means[targets] + 0.7 * shared + 0.7 * generator.standard_normal((images, 16))
        return torch.from_numpy(features), torch.from_numpy(targets)

    called = []
    for _ in range(REPETITIONS):
        (bank, labels), (queries, targets) = draw(300), draw(300)
        first, second = (
            few_labels_answers(bank[:, half], labels, queries[:, half], targets, 10)
            for half in (slice(0, 8), slice(8, 16))
        )
        called.append(excludes_zero(over_images_and_draws(paired(first, second))))
    print(f"{first.mean():.3f} right, called different in {np.mean(called):.3f}")
    assert 0.02 <= np.mean(called) <= 0.07
