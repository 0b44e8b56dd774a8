"""Claims about every method that is available, and about the base that they share."""

import pytest
import torch

from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.methods import ContrastiveModule, build_method
from cl.optim.schedules import Budget
from tests.conftest import TINY

AVAILABLE = [name for name, config in METHODS.items() if config.implementation]


def build(method: str, *flags: str) -> ContrastiveModule:
    config = parse(Pretrain, ["digits", "resnet18", "--method", method, *TINY, *flags]).config
    torch.manual_seed(0)
    return build_method(config, classes=4, budget=Budget(16, 2, 10))


def batch(labels: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 16, 3, 8, 8, generator=generator)
    return Batch(torch.arange(16), (views,), torch.arange(16) % 4 if labels else torch.full((16,), -1))


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_step_reaches_every_parameter_with_a_finite_gradient(name: str) -> None:
    module = build(name)
    module.training_step(batch(), 0).backward()
    for parameter, weight in module.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.isfinite().all(), parameter
        assert weight.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_online_head_changes_nothing_but_itself(name: str) -> None:
    module, gradients = build(name), []
    learned = {key: w for key, w in module.named_parameters() if not key.startswith("online_head")}
    for scale in (1, 1000):
        module.zero_grad()
        module.online_head.weight.data.mul_(scale)
        module.training_step(batch(), 0).backward()
        gradients.append({key: w.grad.clone() for key, w in learned.items() if w.grad is not None})
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in learned)


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_batch_without_labels_trains_without_nan(name: str) -> None:
    module = build(name)
    loss = module.training_step(batch(labels=False), 0)
    loss.backward()
    assert loss.isfinite()
    assert (module.online_head.weight.grad == 0).all()  # type: ignore[union-attr]
    assert "online_linear/train_top1" not in module.epoch_metrics()


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_parameter_is_in_one_group_and_the_head_has_its_own_rate_without_decay(name: str) -> None:
    module = build(name, "--lr", "0.5", "--classifier_lr", "2", "--weight_decay", "0.1")
    groups = module.configure_optimizers()["optimizer"].param_groups
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in module.parameters())
    assert [id(p) for p in groups[1]["params"]] == [id(p) for p in module.online_head.parameters()]
    assert groups[1]["weight_decay"] == 0
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.5 * 16 / 256, 2 * 16 / 256])
