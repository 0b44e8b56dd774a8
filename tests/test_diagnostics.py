"""The metrics that distinguish a collapsed embedding from a healthy one, and the verdict on them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cl.config.methods import METHODS
from cl.config.methods.base import CollapseLevel
from cl.evaluation.online.health import CollapseAlarm, Health, Level, Verdict, health, verdict_on
from cl.methods import simsiam
from tests import reference
from tests.conftest import TINY, Run


def projections(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "dim"), [(9, 4), (5, 7)])
def test_health_matches_its_definitions(n: int, dim: int) -> None:
    z1, z2 = projections(n, dim), projections(n, dim) + 0.3 * projections(n, dim, seed=1)
    expected = reference.health(z1.numpy(), z2.numpy())
    assert health(z1, z2)._asdict() == pytest.approx(expected, rel=1e-6)


def test_health_of_orthogonal_and_of_identical_projections() -> None:
    z = torch.eye(8).repeat(2, 1)  # sixteen images on eight orthogonal directions
    orthogonal = health(z, z)
    assert orthogonal.rank == pytest.approx(8)
    assert orthogonal.std == pytest.approx(math.sqrt(8) * math.sqrt(1 / 8 - 1 / 64))
    assert (orthogonal.alignment, orthogonal.positive_cosine) == (0, pytest.approx(1))
    identical = health(torch.ones(5, 3), torch.ones(5, 3))  # all images at one point
    assert (identical.std, identical.rank) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert (identical.uniformity, identical.negative_cosine) == (pytest.approx(0), pytest.approx(1))


def test_evenly_spread_directions_have_a_standard_deviation_of_one() -> None:
    z = projections(2000, 64)
    assert health(z, z).std == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_constant_and_non_finite_projections_are_collapsed(value: float) -> None:
    z = torch.full((20, 4), value)
    result = verdict_on(health(z, z), 20, 4, step=60, steps=100)
    assert result is not None
    assert result.collapsed


def test_a_loss_at_the_level_of_a_collapse_is_an_alarm_after_the_first_tenth() -> None:
    fine = Health(1.0, 100, 0, 0, 0, 0)
    for measured, step, alarm in ((2.07, 200, True), (2.0, 200, False), (2.07, 90, False)):
        level = Level(measured, CollapseLevel("loss", 2.08))
        found = verdict_on(fine, 1000, 512, step, 1000, level)
        assert found is not None
        assert found.alarm == alarm
        assert not found.collapsed
        assert found.text.startswith("nothing learned: loss 2.07, 2.08 if all" if alarm else "no collapse")


def test_a_collapse_is_reported_with_the_level_of_the_loss() -> None:
    level = METHODS["moco_v2"](queue_size=512).collapse_level(128)
    assert level is not None
    found = verdict_on(Health(0.03, 1.7, 0, 0, 0, 0), 1000, 128, 100, 176, Level(6.224, level))
    assert found is not None
    numbers = "std x sqrt(d) 0.03, rank 1.7 of 128, loss 6.224, 6.24 if all projections are equal"
    assert found.text == f"collapsed: {numbers}; try a lower --lr"


def test_an_epoch_whose_steps_were_all_skipped_has_no_loss_to_compare(run: Run, spoil: Callable[..., None]) -> None:
    spoil(*range(1, 6))  # the first epoch
    flags = ["digits", "resnet18", *TINY, "--method", "nnclr", "--batch_size", "256", "--epochs", "2"]
    code, _, err = run("main_contrastive.py", *flags)
    assert code == 0, err


def test_the_levels_are_those_of_a_loss_over_the_batches_that_share_it(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    levels: list[CollapseLevel] = []

    class Spy(CollapseAlarm):
        def __init__(self, *, level: CollapseLevel, **options: Any) -> None:
            super().__init__(level=level, **options)
            levels.append(level)

    monkeypatch.setattr("cl.run.train.pretraining.CollapseAlarm", Spy)
    flags = ["digits", "resnet18", *TINY, "--method", "lejepa", "--max_steps", "1", "--accumulate", "2"]
    for exact in ([], ["--exact_negatives"]):
        run("main_contrastive.py", *flags, "--batch_size", "64", *exact)
    assert levels == [("sigreg", pytest.approx(0.40205 * n, rel=1e-4)) for n in (64, 128)]


def verdict(std: float, rank: float, step: int = 200, images: int = 1000, dim: int = 512) -> Verdict | None:
    return verdict_on(Health(std, rank, 0, 0, 0, 0), images, dim, step, steps=1000)


def test_the_verdict_follows_the_thresholds() -> None:
    assert verdict(0.09, 100).collapsed  # type: ignore[union-attr]
    assert verdict(1.0, 1.9).collapsed  # type: ignore[union-attr]
    partial = verdict(1.0, 10.1)
    assert partial == Verdict("partial collapse: rank 10 of 512", alarm=True)
    assert not verdict(1.0, 10.3).alarm  # type: ignore[union-attr]  # 2 % of 512 is 10.24
    assert not verdict(1.0, 9.0, images=100).alarm  # type: ignore[union-attr]  # 2 % of 100 images is 2
    assert not verdict(1.0, 5.0, step=90).alarm  # type: ignore[union-attr]  # within the first tenth
    assert verdict(0.0, 1.0, step=49) is None
    assert verdict(0.0, 1.0, images=15) is None


COLLAPSING = ["digits", "resnet18", "--width", "4", "--method", "simsiam", "--proj_hidden_dim", "32"]
COLLAPSING += ["--proj_output_dim", "32", "--pred_hidden_dim", "8", "--no_zero_init_residual", "--batch_size", "64"]
COLLAPSING += ["--optimizer", "sgd", "--lr", "2", "--epochs", "8"]


def test_simsiam_without_its_stop_gradient_is_reported_as_collapsed(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_gradient(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.cosine_similarity(p, z, dim=1).mean()

    monkeypatch.setattr(simsiam, "negative_cosine_similarity", with_gradient)
    code, out, _ = run("main_contrastive.py", *COLLAPSING, "--stop_on_collapse")
    assert code == 1
    assert out.splitlines()[-1].startswith("collapsed: std x sqrt(d) 0.")
    assert "epoch 8/8" not in out


def test_a_healthy_run_reports_no_collapse_and_logs_its_health(run: Run, folder: Path) -> None:
    code, out, err = run("main_contrastive.py", *COLLAPSING, "--run_id", "fine", "--epochs", "3", "--stop_on_collapse")
    assert (code, err) == (0, "")
    assert "no collapse: std x sqrt(d)" in out
    assert "collapsed:" not in out
    header, *rows = (folder / "trained_models/fine/metrics.csv").read_text().splitlines()
    for name in Health._fields:
        assert f"health/{name}" in header.split(",")
    assert len(rows) == 3
    assert "std x sqrt(d)  rank" in out
