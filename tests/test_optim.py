"""The learning rate follows its formula at every step, for every group."""

import math
from typing import Any

import pytest
import torch

from cl.config.optim import OptimConfig
from cl.config.run import RunConfig
from cl.optim import optimizer_of, with_schedule
from cl.optim.schedules import Budget, Schedule

STEPS = 20  # per epoch


def trace(config: OptimConfig, epochs: int = 5) -> list[float]:
    """The rate that each optimizer step really uses."""
    weight = torch.nn.Parameter(torch.zeros(1))
    budget = Budget.of(RunConfig(epochs=epochs), 256, STEPS)
    made = with_schedule(optimizer_of(config, [{"params": [weight]}], 256), Schedule.of(config, budget))
    rates = []
    for _ in range(budget.steps):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 2.5])
def test_warm_up_is_linear_and_the_cosine_ends_at_min_lr(warmup: float) -> None:
    rates = trace(OptimConfig(lr=0.4, min_lr=0.1, warmup_epochs=warmup))
    up = round(warmup * STEPS)
    assert rates[:up] == pytest.approx([0.4 * (t + 1) / up for t in range(up)])
    down = 100 - up
    assert rates[up:] == pytest.approx([0.1 + 0.3 * (1 + math.cos(math.pi * t / down)) / 2 for t in range(down)])


def test_step_decays_at_the_named_epochs() -> None:
    rates = trace(OptimConfig(lr=1.0, scheduler="step", lr_decay_steps=(2, 4)))
    assert rates == pytest.approx([1.0] * 40 + [0.1] * 40 + [0.01] * 20)


def test_exponential_decays_every_epoch_and_none_never() -> None:
    rates = trace(OptimConfig(lr=1.0, scheduler="exponential", lr_decay_rate=0.5))
    assert rates[::STEPS] == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.0625])
    assert set(trace(OptimConfig(lr=1.0, scheduler="none"))) == {1.0}


def test_cosine_has_no_warm_up() -> None:
    assert trace(OptimConfig(lr=1.0, scheduler="cosine"))[0] == 1.0


def test_the_run_is_as_long_as_epochs_or_max_steps_whichever_ends_first() -> None:
    assert Budget.of(RunConfig(epochs=3), 256, STEPS).steps == 60
    assert Budget.of(RunConfig(epochs=3, max_steps=50), 256, STEPS).steps == 50
    assert Budget.of(RunConfig(epochs=3, max_steps=500), 256, STEPS).steps == 60


def test_a_group_keeps_its_own_rate_and_decay_under_the_common_schedule() -> None:
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    config = OptimConfig(optimizer="adamw", lr=0.1, weight_decay=0.05, scheduler="cosine")
    optimizer = optimizer_of(config, [{"params": [a]}, {"params": [b], "lr": 2.0, "weight_decay": 0.0}], 512)
    made = with_schedule(optimizer, Schedule("cosine", 10, 5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    for step in range(10):
        factor = (1 + math.cos(math.pi * step / 10)) / 2
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2 * factor, 2.0 * factor])
        optimizer.step()
        made["lr_scheduler"]["scheduler"].step()


def test_a_resumed_run_follows_its_own_horizon_not_the_saved_one() -> None:
    def made(epochs: int) -> dict[str, Any]:
        optimizer = optimizer_of(OptimConfig(lr=1.0), [{"params": [torch.nn.Parameter(torch.zeros(1))]}], 256)
        return with_schedule(optimizer, Schedule("cosine", epochs * STEPS, STEPS))

    first, second = made(1)["lr_scheduler"]["scheduler"], made(3)["lr_scheduler"]["scheduler"]
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
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizer_of(OptimConfig(optimizer=name, lr=0.1), [{"params": [weight]}], 512)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
