"""NT-Xent and SupCon are what their papers say, to the last digit that float64 has."""

import math

import pytest
import torch
from torch import Tensor

from cl.losses import nt_xent_loss
from tests import reference


def projections(rows: int, dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, dtype=torch.float64, generator=generator)


def value_and_gradient(loss: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, z)[0]


IDS = {
    "two views": torch.arange(5).repeat(2),
    "eight views": torch.arange(2).repeat(8),
    "classes": torch.tensor([0, 1, 1, 2, 0, 1, 1, 2]),
    "some alone": torch.tensor([0, -2, -3, 0, 4, 4]),
    "nobody has a positive": torch.arange(4),
}


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("name", IDS)
def test_equals_the_papers_loops(name: str, temperature: float) -> None:
    ids = IDS[name]
    z = projections(len(ids)).requires_grad_()
    ours = value_and_gradient(nt_xent_loss(z, ids, temperature), z)
    theirs = value_and_gradient(reference.supcon(z, ids, temperature) + 0 * z.sum(), z)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_with_instance_ids_it_is_simclrs_algorithm_1() -> None:
    z = projections(10)
    ours = nt_xent_loss(z, torch.arange(5).repeat(2), 0.2)
    torch.testing.assert_close(ours, reference.nt_xent(z[:5], z[5:], 0.2), rtol=1e-10, atol=0)


def test_gradcheck() -> None:
    z = projections(8, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_xent_loss(z, IDS["classes"], 0.3), (z,))


def test_the_order_of_the_batch_does_not_matter() -> None:
    z, ids = projections(8), IDS["classes"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nt_xent_loss(z[order], ids[order], 0.2), nt_xent_loss(z, ids, 0.2), rtol=1e-12, atol=0)


def test_the_scale_of_a_projection_does_not_matter() -> None:
    z, ids = projections(8), IDS["classes"]
    scale = torch.linspace(0.1, 100, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(nt_xent_loss(z * scale, ids, 0.2), nt_xent_loss(z, ids, 0.2), rtol=1e-10, atol=0)


def test_orthogonal_pairs_have_the_closed_form() -> None:
    z = torch.eye(4, dtype=torch.float64).repeat(2, 1)  # both views equal, images orthogonal
    expected = -1 / 0.5 + math.log(math.exp(1 / 0.5) + 6)
    assert nt_xent_loss(z, torch.arange(4).repeat(2), 0.5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_temperature_001_in_any_precision(dtype: torch.dtype) -> None:
    z = torch.cat([projections(6), projections(6) + 0.01]).to(dtype).requires_grad_()
    loss = nt_xent_loss(z, torch.arange(6).repeat(2), 0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_autocast_does_not_reach_inside() -> None:
    z, ids = projections(8).float(), IDS["classes"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = nt_xent_loss(z, ids, 0.2)
    assert torch.equal(under, nt_xent_loss(z, ids, 0.2))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"z is \[4, 6\] and ids is \[3\]"):
        nt_xent_loss(projections(4), torch.arange(3), 0.2)
