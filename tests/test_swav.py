"""SwAV: Sinkhorn's assignments, prototypes of length 1 that are frozen at first, and when the queue is used."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cl.config.methods import METHODS
from cl.losses import sinkhorn, swav_loss
from cl.methods import ContrastiveModule
from cl.nn.prototypes import Prototypes
from tests import reference
from tests.conftest import TINY, Run
from tests.kills import same
from tests.test_losses import assert_same_loss, projections
from tests.test_methods import batch, build, double
from tests.test_ranks import pools
from tests.test_state import SKIPPED, TAKEN, take_step

__all__ = ["pools"]  # the fixture

PRETRAIN = "main_contrastive.py"
SCORES = torch.cat([projections(12), projections(12, seed=1)]).tanh()  # 24 images, 6 prototypes, from -1 to 1


# Sinkhorn.


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("epsilon", [0.02, 0.05, 1.0])
def test_assignments_are_those_of_the_official_code(epsilon: float, iterations: int) -> None:
    expected = reference.sinkhorn(SCORES, epsilon, iterations)
    torch.testing.assert_close(sinkhorn(SCORES, epsilon, iterations), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("shape", [(24, 6), (6, 24)])
def test_rows_sum_to_1_and_columns_to_their_share_of_the_images(shape: tuple[int, int]) -> None:
    scores = SCORES.view(shape)
    torch.testing.assert_close(sinkhorn(scores, 0.05).sum(dim=1), torch.ones(shape[0], dtype=torch.float64))
    converged = sinkhorn(scores, 0.2, iterations=300)
    torch.testing.assert_close(converged.sum(dim=1), torch.ones(shape[0], dtype=torch.float64))
    share = torch.full((shape[1],), shape[0] / shape[1], dtype=torch.float64)
    torch.testing.assert_close(converged.sum(dim=0), share, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.005, 1e-4])
def test_small_epsilons_give_finite_assignments_in_any_precision(epsilon: float, dtype: torch.dtype) -> None:
    """Also of images and prototypes whose best score is far below that of others."""
    scores = SCORES.to(dtype, copy=True)
    scores[0] = scores[:, 0] = -1.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sinkhorn(scores, epsilon)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(24, dtype=found.dtype))
    expected = sinkhorn(scores.double(), epsilon)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 / epsilon)


def test_equal_scores_are_assigned_to_all_prototypes_alike_and_have_the_collapse_level() -> None:
    level = METHODS["swav"](prototypes=3000).collapse_level(64)  # type: ignore[call-arg]
    assert level == ("loss", math.log(3000))
    for dtype in (torch.float32, torch.float64):
        scores = torch.full((8, 256, 3000), 0.3, dtype=dtype)
        assigned = sinkhorn(scores[:2], 0.05)
        torch.testing.assert_close(assigned, torch.full_like(assigned, 1 / 3000))
        assert swav_loss(scores, assigned, 0.1).item() == pytest.approx(level.value, abs=1e-6)


def test_equal_images_have_at_least_the_collapse_level() -> None:
    scores = SCORES[:1].expand(2, 16, 6)
    assert swav_loss(scores, sinkhorn(scores, 0.05), 0.1) >= math.log(6)


def test_views_are_assigned_separately() -> None:
    views = SCORES.view(2, 12, 6)
    assert torch.equal(sinkhorn(views, 0.05), torch.stack([sinkhorn(each, 0.05) for each in views]))


def test_assignments_have_no_gradient_and_do_not_depend_on_the_order_of_images() -> None:
    assert not sinkhorn(SCORES.clone().requires_grad_(), 0.05).requires_grad
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sinkhorn(SCORES[order], 0.05), sinkhorn(SCORES, 0.05)[order], rtol=1e-12, atol=0)


def test_rows_that_do_not_count_change_no_other_row() -> None:
    counts = torch.arange(24) >= 5
    rows = torch.cat([torch.zeros(5, 6, dtype=torch.float64), SCORES[5:]])
    found = sinkhorn(rows, 0.05, counts=counts)
    assert found.isfinite().all()
    torch.testing.assert_close(found[5:], sinkhorn(SCORES[5:], 0.05), rtol=1e-12, atol=0)


def assignments_of_part(sizes: list[int], epsilon: float, dtype: torch.dtype) -> Tensor:
    from cl.distributed import rank

    return sinkhorn(SCORES.to(dtype).split(sizes)[rank()], epsilon)


@pytest.mark.parametrize("sizes", [[12, 12], [7, 1, 16]])
def test_the_images_of_all_processes_are_assigned_together(pools: dict, sizes: list[int]) -> None:
    """Also if one process has more of them. 0.005 exceeds float32 unless the same maximum is subtracted everywhere."""
    for epsilon, dtype, error in ((0.05, torch.float64, 1e-12), (0.005, torch.float32, 1e-4)):
        found = torch.cat(pools[len(sizes)].run(assignments_of_part, sizes, epsilon, dtype))
        torch.testing.assert_close(found, sinkhorn(SCORES.to(dtype), epsilon), rtol=0, atol=error)


# The loss.


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("views", [2, 5])
def test_the_loss_is_that_of_the_official_code(views: int, temperature: float) -> None:
    scores = [projections(4, seed=v).tanh() for v in range(views)]
    assigned = [sinkhorn(each, 0.05) for each in scores[:2]]
    assert_same_loss(
        lambda *each: swav_loss(torch.stack(each), torch.stack(assigned), temperature),
        lambda *each: reference.swav(list(each), assigned, temperature),
        *scores,
    )


def test_no_gradient_flows_into_the_assignments() -> None:
    assigned = sinkhorn(SCORES.view(2, 12, 6), 0.05).requires_grad_()
    swav_loss(SCORES.view(2, 12, 6).clone().requires_grad_(), assigned, 0.1).backward()
    assert assigned.grad is None


# Prototypes.


def lengths(module: ContrastiveModule) -> Tensor:
    return module.prototypes.weight.detach().norm(dim=1)


def test_scores_are_cosines_also_under_autocast() -> None:
    layer = Prototypes(8, 5)
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(5))
    z = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(z)
    assert found.dtype == torch.float32
    expected = torch.stack([torch.nn.functional.cosine_similarity(z, row, dim=-1) for row in layer.weight], dim=-1)
    torch.testing.assert_close(found, expected)


def test_prototypes_have_length_1_after_each_step_and_a_skipped_one_changes_no_bit() -> None:
    module = build("swav")
    take_step(module, batch())
    torch.testing.assert_close(lengths(module), torch.ones(60))
    before = module.prototypes.weight.detach().clone()
    module.training_step(batch(), 0)
    module.after_step(SKIPPED)
    assert torch.equal(module.prototypes.weight, before)


@pytest.mark.parametrize("flags", [["--optimizer", "adamw"], ["--optimizer", "sgd", "--lars"]])
def test_frozen_prototypes_keep_every_bit_and_an_empty_state_until_their_step(flags: list[str]) -> None:
    """One epoch of two steps; an epoch of accumulated batches has as few."""
    module = build("swav", "--freeze_prototypes_epochs", "1", "--weight_decay", "0.1", *flags)
    optimizer = module.configure_optimizers()["optimizer"]
    start = module.prototypes.weight.detach().clone()
    for step in range(4):
        frozen = step < 2
        for _ in range(2):
            (module.training_step(batch(), 0) / 2).backward()
        module.prepare_gradients(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(TAKEN)
        module.step_index += 1
        assert torch.equal(module.prototypes.weight, start) == frozen
        assert (module.prototypes.weight not in optimizer.state) == frozen
    torch.testing.assert_close(lengths(module), torch.ones(60))


def test_a_run_freezes_the_prototypes_for_its_first_epochs(run: Run, folder: Path) -> None:
    flags = ["digits", "resnet18", *TINY, "--method", "swav", "--batch_size", "256", "--freeze_prototypes_epochs", "2"]
    weights, states = [], []
    for steps in (1, 10, 11):  # five steps an epoch
        assert run(PRETRAIN, *flags, "--max_steps", str(steps), "--run_id", f"run{steps}", "--epochs", "3")[0] == 0
        saved = torch.load(folder / f"trained_models/run{steps}/last.ckpt", weights_only=True)
        weights.append(saved["state_dict"]["prototypes.weight"])
        states.append(len(saved["optimizer_states"][0]["state"]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert states[0] == states[1] == states[2] - 1


# The queue.

QUEUE = [
    "--queue_size",
    "21",
    "--batch_size",
    "16",
    "--queue_start_epoch",
    "1",
    "--prototypes",
    "5",
]  # two steps an epoch


def alone(module: ContrastiveModule, with_queue: bool) -> Tensor:
    """The loss of a batch, slowly, with the rows of the queue or without them."""
    views = double(batch()).views[0]
    z = module.projector(module.backbone(views.flatten(0, 1)))
    scores = [each @ module.prototypes.weight.T for each in (z / z.norm(dim=1, keepdim=True)).split(16)]
    former = [module.queue.rows[:, g] @ module.prototypes.weight.T for g in (0, 1)]
    rows = [torch.cat([old, own]) if with_queue else own for old, own in zip(former, scores, strict=True)]
    assigned = [reference.sinkhorn(each.detach(), 0.02, 3)[-16:] for each in rows]
    return reference.swav(scores, assigned, 0.1)


def test_the_queue_fills_from_its_epoch_and_its_rows_are_assigned_too_once_it_is_full() -> None:
    """By the prototypes of the moment; a step looks at the queue before it enters it."""
    module = build("swav", *QUEUE).double()
    written = []
    for step in range(6):
        expected = alone(module, with_queue=step >= 4)
        torch.testing.assert_close(module.step(double(batch())).loss, expected, rtol=1e-10, atol=0)
        take_step_again(module)
        written.append(int(module.queue.written))
    assert written == [0, 0, 16, 32, 48, 64]
    torch.testing.assert_close(module.queue.rows.norm(dim=2), torch.ones(21, 2, dtype=torch.float64))


def take_step_again(module: ContrastiveModule, taken: Tensor = TAKEN) -> None:
    """What follows the forward pass of a step, with a change of the weights."""
    with torch.no_grad():
        for parameter in module.projector.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    module.after_step(taken)
    module.step_index += 1


def test_a_queue_with_rows_that_skipped_steps_left_empty_is_not_used_until_it_is_full() -> None:
    module = build("swav", *QUEUE).double()
    module.step_index = 2
    for taken, full in ((SKIPPED, False), (TAKEN, False), (TAKEN, False), (TAKEN, True)):
        expected = alone(module, with_queue=full)
        torch.testing.assert_close(module.step(double(batch())).loss, expected, rtol=1e-10, atol=0)
        take_step_again(module, taken)


def test_a_skipped_step_changes_no_bit_of_the_state() -> None:
    module = build("swav", "--queue_size", "16", "--batch_size", "16", "--queue_start_epoch", "0")
    take_step(module, batch())
    before = {name: value.clone() for name, value in module.state_dict().items() if "num_batches" not in name}
    module.step(batch())
    module.after_step(SKIPPED)
    kept = [name for name in before if name.startswith(("queue", "prototypes"))]
    assert len(kept) == 3
    assert all(same(module.state_dict()[name], before[name]) for name in kept)


def test_a_run_without_a_queue_has_none(run: Run, folder: Path) -> None:
    assert not any("queue" in name for name in build("swav").state_dict())


# What a user is told.


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        (
            ["--prototypes", "9"],
            "--prototypes 9 are fewer than the 10 classes, so that some share one; --proto",
        ),
        (["--queue_start_epoch", "2"], "--queue_start_epoch has no effect without --queue_size"),
        (["--queue_size", "256", "--queue_start_epoch", "16"], "--queue_size has no effect: --queue_start_epoch 16 is"),
    ],
)
def test_settings_that_are_probably_not_intended_are_warned_of(flags: list[str], warning: str, run: Run) -> None:
    code, out, err = run(PRETRAIN, "digits", "resnet18", *TINY, "--method", "swav", *flags, "--fast_dev_run")
    assert (code, err) == (0, "")
    assert warning in " ".join(out.split())


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "imagenet100"])
def test_the_presets_have_more_prototypes_than_classes_and_no_warning(dataset: str) -> None:
    from cl.cli import parse
    from cl.config.programs import Pretrain

    config = parse(Pretrain, [dataset, "resnet18", "--method", "swav"]).config.method
    classes = 100 if dataset.endswith("100") else 10
    assert not list(config.warnings(50_000, 256, classes))
    assert config.sinkhorn_epsilon == (0.05 if dataset == "imagenet100" else 0.02)


def test_a_collapsed_run_is_told_by_its_loss(run: Run, folder: Path) -> None:
    """At a rate of 0 the loss stays near ln K, where the verdict knows a run that has learned nothing."""
    flags = ["digits", "resnet18", *TINY, "--method", "swav", "--lr", "0", "--epochs", "3", "--run_id", "run"]
    code, out, _ = run(PRETRAIN, *flags)
    assert code == 0
    loss = json.loads((folder / "trained_models/run/summary.json").read_text())["loss"]
    assert loss > 0.99 * math.log(60)
    assert f"nothing learned: loss {loss:.4g}, {math.log(60):.4g} if all projections are equal" in out
