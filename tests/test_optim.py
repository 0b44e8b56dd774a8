"""The learning rate follows its formula at every step, for every group."""

import math
from typing import Any

import pytest
import torch

from cl.config.optim import OptimConfig, PretrainOptimConfig
from cl.config.run import RunConfig
from cl.optim import build_optimizer, with_schedule
from cl.optim.groups import Group
from cl.optim.schedules import Budget, Schedule
from tests import reference

STEPS = 20  # per epoch


def group(lr: float = 1.0, decay: float = 0.0, **options: bool) -> Group:
    return Group([torch.nn.Parameter(torch.zeros(1))], lr, decay, **options)


def trace(config: OptimConfig, epochs: int = 5) -> list[float]:
    """The learning rate of each optimizer step."""
    budget = Budget.of(RunConfig(epochs=epochs), 256, STEPS)
    configured = with_schedule(build_optimizer(config, [group(config.scaled_lr(256))]), Schedule.of(config, budget))
    rates = []
    for _ in range(budget.steps):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 2.5, 10])
def test_warm_up_is_linear_and_the_cosine_ends_at_min_lr(warmup: float) -> None:
    rates = trace(OptimConfig(lr=0.4, min_lr=0.1, warmup_epochs=warmup), epochs=15)
    warmup_steps = round(warmup * STEPS)
    assert rates[:warmup_steps] == pytest.approx([0.4 * (t + 1) / warmup_steps for t in range(warmup_steps)])
    cosine_steps = 15 * STEPS - warmup_steps
    assert rates[warmup_steps:] == pytest.approx(
        [0.1 + 0.3 * (1 + math.cos(math.pi * t / cosine_steps)) / 2 for t in range(cosine_steps)]
    )


def test_step_decays_at_the_given_epochs() -> None:
    rates = trace(OptimConfig(lr=1.0, scheduler="step", lr_decay_steps=(2, 4)))
    assert rates == pytest.approx([1.0] * 40 + [0.1] * 40 + [0.01] * 20)


def test_exponential_decays_every_epoch_and_none_never() -> None:
    rates = trace(OptimConfig(lr=1.0, scheduler="exponential", lr_decay_rate=0.5))
    assert rates[::STEPS] == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.0625])
    assert set(trace(OptimConfig(lr=1.0, scheduler="none"))) == {1.0}


def test_cosine_has_no_warm_up() -> None:
    assert trace(OptimConfig(lr=1.0, scheduler="cosine"))[0] == 1.0


def test_a_run_ends_after_epochs_or_max_steps_whichever_comes_first() -> None:
    assert Budget.of(RunConfig(epochs=3), 256, STEPS).steps == 60
    assert Budget.of(RunConfig(epochs=3, max_steps=50), 256, STEPS).steps == 50
    assert Budget.of(RunConfig(epochs=3, max_steps=500), 256, STEPS).steps == 60


def test_fast_dev_run_has_no_warm_up_even_if_one_is_typed() -> None:
    budget = Budget.of(RunConfig(fast_dev_run=True), 256, STEPS)
    assert Schedule.of(OptimConfig(warmup_epochs=10), budget).warmup == 0


def test_a_group_keeps_its_own_rate_and_decay_under_the_common_schedule() -> None:
    optimizer = build_optimizer(OptimConfig(optimizer="adamw"), [group(0.2, 0.05), group(2.0)])
    configured = with_schedule(optimizer, Schedule("cosine", 10, 5))
    assert [params["weight_decay"] for params in optimizer.param_groups] == [0.05, 0.0]
    for step in range(10):
        factor = (1 + math.cos(math.pi * step / 10)) / 2
        assert [params["lr"] for params in optimizer.param_groups] == pytest.approx([0.2 * factor, 2.0 * factor])
        optimizer.step()
        configured["lr_scheduler"]["scheduler"].step()


def test_a_resumed_run_follows_its_own_horizon_not_the_saved_one() -> None:
    def configured(epochs: int) -> dict[str, Any]:
        return with_schedule(build_optimizer(OptimConfig(), [group()]), Schedule("cosine", epochs * STEPS, STEPS))

    first, second = configured(1)["lr_scheduler"]["scheduler"], configured(3)["lr_scheduler"]["scheduler"]
    for _ in range(STEPS):
        first.optimizer.step()
        first.step()
    second.load_state_dict(first.state_dict())
    second.optimizer.step()
    second.step()
    assert second.get_last_lr() == pytest.approx([(1 + math.cos(math.pi * 21 / 60)) / 2])


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_each_optimizer_is_torchs(name: str, kind: type) -> None:
    optimizer = build_optimizer(OptimConfig(optimizer=name), [group(0.2)])
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_an_unscheduled_group_keeps_its_rate_at_every_step() -> None:
    optimizer = build_optimizer(OptimConfig(), [group(1.0), group(0.3, scheduled=False)])
    configured = with_schedule(optimizer, Schedule("warmup_cosine", 10, 5, warmup=2))
    rates = []
    for _ in range(10):
        rates.append([params["lr"] for params in optimizer.param_groups])
        optimizer.step()
        configured["lr_scheduler"]["scheduler"].step()
    assert {second for _, second in rates} == {0.3}
    assert len({first for first, _ in rates}) > 5


def test_reduce_lowers_the_rate_of_scheduled_groups_after_ten_epochs_without_a_lower_loss() -> None:
    optimizer = build_optimizer(OptimConfig(), [group(1.0), group(0.3, scheduled=False)])
    configured = with_schedule(optimizer, Schedule("reduce", 100, 1, floor=0.05, decay_rate=0.2))
    rates = []
    for epoch in range(40):
        configured["lr_scheduler"]["scheduler"].step(max(1.0, 5.0 - epoch))
        rates.append([params["lr"] for params in optimizer.param_groups])
    # Epoch 4 has the lowest loss; epochs 5 to 14 are the ten without a lower one.
    assert [first for first, _ in rates][:15] == [1.0] * 15
    assert [first for first, _ in rates][15:26] == pytest.approx([0.2] * 11)
    assert rates[-1] == pytest.approx([0.05, 0.3])  # min_lr


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_three_steps_of_lars_match_the_papers_formula(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (4,), (5,), (3, 2)]  # weight, bias, norm, and a weight that starts at zero
    weights = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator)) for shape in shapes]
    weights[3].data.zero_()
    gradients = [[torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes] for _ in range(3)]
    config = PretrainOptimConfig(lars=True, momentum=0.9)
    expected = reference.lars(
        [w.detach().numpy() for w in weights], [[g.numpy() for g in step] for step in gradients], 0.4, decay
    )
    optimizer = build_optimizer(config, [Group(weights, 0.4, decay)])
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    for weight, target in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), torch.from_numpy(target), rtol=1e-6, atol=1e-9)  # its eps is 1e-8


def test_clipped_lars_never_raises_the_rate() -> None:
    weight = torch.nn.Parameter(torch.full((4, 4), 100.0))
    for clip, step in ((True, 0.1 * 1e-3), (False, 0.1 * 0.02 * 400 / 4e-3 * 1e-3)):
        config = PretrainOptimConfig(lars=True, lars_eta=0.02, lars_clip=clip, momentum=0)
        weight.data.fill_(100.0)
        optimizer = build_optimizer(config, [Group([weight], 0.1, 0.0)])
        weight.grad = torch.full((4, 4), 1e-3)
        optimizer.step()
        assert (100.0 - weight.data).mean().item() == pytest.approx(step, rel=0.05)


def test_lars_takes_a_plain_step_without_decay_in_groups_that_are_not_adapted() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer(PretrainOptimConfig(lars=True, momentum=0), [Group([weight], 0.1, 0.5, adapted=False)])
    weight.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.full((2, 2), 0.7))
