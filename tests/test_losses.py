"""Each loss matches its paper's formula to the precision of float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cl.config.methods import METHODS
from cl.losses import (
    barlow_twins_loss,
    blockwise,
    dino_loss,
    dino_targets,
    info_nce_loss,
    lejepa_terms,
    mean_entropy,
    moco_v2_loss,
    moco_v3_loss,
    negative_cosine_similarity,
    nt_xent_loss,
    swav_loss,
)
from cl.losses.nt_xent import grouped
from tests import reference


def projections(rows: int, dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, dtype=torch.float64, generator=generator)


def assert_same_loss(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Equal in value, and in the gradient of every input, to a relative 1e-10."""
    results = []
    for loss in (ours, theirs):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = loss(*leaves) + 0 * sum(leaf.sum() for leaf in leaves)  # a loss may be constant in an input
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


IDS = {
    "two views": torch.arange(5).repeat(2),
    "eight views": torch.arange(2).repeat(8),
    "classes": torch.tensor([0, 1, 1, 2, 0, 1, 1, 2]),
    "some without positives": torch.tensor([0, -2, -3, 0, 4, 4]),
    "no positives": torch.arange(4),
}
CLASSES = IDS["classes"]
QUEUE = torch.nn.functional.normalize(projections(11, seed=2), dim=1)
ASSIGNED = projections(16, seed=3).softmax(dim=1).view(2, 8, 6)
CENTRE = projections(1, seed=3)[0]
Z1, Z2 = projections(8), projections(8) + 0.5 * projections(8, seed=1)

DIRECTIONS = projections(5, seed=2)


def lejepa_loss(*views: Tensor, full_size: int = 2, weight: float = 0.1) -> Tensor:
    terms = lejepa_terms(torch.stack(views), full_size, DIRECTIONS)
    return (1 - weight) * terms.invariance + weight * terms.sigreg


def swav(*scores: Tensor) -> Tensor:
    return swav_loss(torch.stack(scores), ASSIGNED.to(torch.promote_types(scores[0].dtype, torch.float32)), 0.3)


def dino(student: Tensor, teacher: Tensor) -> Tensor:
    centre = CENTRE.to(torch.promote_types(teacher.dtype, torch.float32))
    return dino_loss(student, dino_targets(teacher, centre, 0.2), 0.3)


LOSSES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "nt_xent": (lambda z: nt_xent_loss(z, CLASSES, 0.3), (Z1,)),
    "dcl": (lambda z: nt_xent_loss(z, CLASSES, 0.3, decoupled=True), (Z1,)),
    "barlow_twins": (lambda a, b: barlow_twins_loss(a, b, 5e-3, 0.1), (Z1, Z2)),
    "simsiam": (negative_cosine_similarity, (Z1, Z2)),
    "lejepa": (lejepa_loss, (Z1, Z2)),
    "moco_v3": (lambda q, k: moco_v3_loss(q, k, 0.3), (Z1, Z2)),
    "info_nce": (lambda a, b: info_nce_loss(a, b, 0.2), (Z1, Z2)),
    "moco_v2": (lambda a, b: moco_v2_loss(a, b, QUEUE.to(torch.promote_types(a.dtype, torch.float32)), 0.2), (Z1, Z2)),
    "dino": (dino, (Z1, Z2)),
    "swav": (swav, (Z1, Z2)),
}
STOPS_GRADIENT = ("simsiam", "moco_v2", "moco_v3", "dino")  # of the second input


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("name", IDS)
def test_nt_xent_matches_the_papers_formula(name: str, temperature: float) -> None:
    ids = IDS[name]
    assert_same_loss(
        lambda z: nt_xent_loss(z, ids, temperature),
        lambda z: reference.supcon(z, ids, temperature),
        projections(len(ids)),
    )


@pytest.mark.parametrize("block", [blockwise.BLOCK["cpu"], 35])
@pytest.mark.parametrize("name", [*IDS, "one image", "one class"])
def test_decoupled_nt_xent_matches_dcls_formula(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blockwise.BLOCK, "cpu", block)
    ids = IDS[name] if name in IDS else torch.zeros({"one image": 2, "one class": 6}[name], dtype=torch.int64)
    assert_same_loss(
        lambda z: nt_xent_loss(z, ids, 0.2, decoupled=True), lambda z: reference.dcl(z, ids, 0.2), projections(len(ids))
    )


def test_equal_projections_have_the_closed_form_of_dcl() -> None:
    for views, images in ((2, 8), (8, 4)):
        z = torch.ones(views * images, 3, dtype=torch.float64)
        found = nt_xent_loss(z, torch.arange(images).repeat(views), 0.1, decoupled=True).item()
        assert found == pytest.approx(math.log(views * (images - 1)), abs=1e-6)


def test_nt_xent_with_instance_ids_is_simclrs_algorithm_1() -> None:
    ids = torch.arange(5).repeat(2)
    assert_same_loss(
        lambda z: nt_xent_loss(z, ids, 0.2), lambda z: reference.nt_xent(z[:5], z[5:], 0.2), projections(10)
    )


def test_supcon_with_one_class_per_image_is_nt_xent() -> None:
    z = projections(10)
    labels = torch.tensor([7, 3, 0, 12, 5]).repeat(2)
    assert torch.equal(nt_xent_loss(z, labels, 0.1), nt_xent_loss(z, torch.arange(5).repeat(2), 0.1))


@pytest.mark.parametrize(("lamb", "scale"), [(5e-3, 1.0), (0.5, 0.1), (0.0, 1.0)])
def test_barlow_twins_matches_the_papers_formula(lamb: float, scale: float) -> None:
    assert_same_loss(
        lambda a, b: barlow_twins_loss(a, b, lamb, scale),
        lambda a, b: reference.barlow_twins(a, b, lamb, scale),
        Z1,
        Z2,
    )


def test_barlow_twins_matches_the_formula_when_the_batch_is_smaller_than_the_projection() -> None:
    z1, z2 = projections(4, 9), projections(4, 9, seed=1)
    assert_same_loss(
        lambda a, b: barlow_twins_loss(a, b, 0.1, 1.0), lambda a, b: reference.barlow_twins(a, b, 0.1, 1.0), z1, z2
    )


def test_simsiam_matches_the_papers_formula_and_stops_the_gradient() -> None:
    assert_same_loss(negative_cosine_similarity, reference.negative_cosine, Z1, Z2)
    p, z = Z1.clone().requires_grad_(), Z2.clone().requires_grad_()
    negative_cosine_similarity(p, z).backward()
    assert p.grad is not None
    assert z.grad is None


def test_lejepa_matches_the_papers_formula_with_small_crops_compared_to_the_mean_of_full_size_views() -> None:
    views = [projections(4, seed=seed) for seed in range(3)]
    assert_same_loss(
        lejepa_loss, lambda *views: reference.lejepa(list(views), 2, DIRECTIONS, 0.1), *(1.5 * z for z in views)
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_moco_v3_matches_the_papers_formula_and_gives_the_keys_no_gradient(temperature: float) -> None:
    assert_same_loss(
        lambda q, k: moco_v3_loss(q, k, temperature), lambda q, k: reference.moco_v3(q, k, temperature), Z1, Z2
    )
    q, k = Z1.clone().requires_grad_(), Z2.clone().requires_grad_()
    moco_v3_loss(q, k, temperature).backward()
    assert q.grad is not None
    assert k.grad is None


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_matches_the_papers_formula(temperature: float) -> None:
    assert_same_loss(
        lambda a, b: info_nce_loss(a, b, temperature), lambda a, b: reference.info_nce(a, b, temperature), Z1, Z2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_have_the_collapse_level_of_nnclr(dtype: torch.dtype) -> None:
    rows = torch.full((128, 16), 0.3, dtype=dtype)
    level = METHODS["nnclr"]().collapse_level(128)
    assert level is not None
    assert info_nce_loss(rows, rows, 0.1).item() == pytest.approx(level.value, abs=1e-6)
    assert level == ("loss", math.log(128))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_moco_matches_the_papers_formula_and_stops_the_gradient_of_the_keys(temperature: float) -> None:
    assert_same_loss(
        lambda a, b: moco_v2_loss(a, b, QUEUE, temperature),
        lambda a, b: reference.moco_v2(a, b, QUEUE, temperature),
        Z1,
        Z2,
    )
    keys = Z2.clone().requires_grad_()
    moco_v2_loss(Z1.clone().requires_grad_(), keys, QUEUE, temperature).backward()
    assert keys.grad is None


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equal_rows_have_the_collapse_level_of_moco_v2(dtype: torch.dtype, error: float) -> None:
    row = torch.nn.functional.normalize(torch.arange(1, 17, dtype=dtype), dim=0)
    level = METHODS["moco_v2"](queue_size=4096).collapse_level(128)
    assert level == ("loss", math.log(4097))
    loss = moco_v2_loss(row.repeat(128, 1), 3 * row.repeat(128, 1), row.repeat(4096, 1), 0.1)
    assert loss.item() == pytest.approx(level.value, abs=error)


@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 0.3)])
def test_dino_matches_the_papers_formula_and_stops_the_gradient_of_the_targets(
    temperatures: tuple[float, float],
) -> None:
    student, teacher = temperatures
    assert_same_loss(
        lambda s, t: dino_loss(s, dino_targets(t, CENTRE, teacher), student),
        lambda s, t: reference.dino(s, t, CENTRE, student, teacher),
        Z1,
        Z2,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prototypes", [2, 4096, 65536])
def test_equal_scores_have_the_collapse_level_of_dino(dtype: torch.dtype, prototypes: int) -> None:
    """Exactly ln K, whatever the scores are, once the centre is where they are."""
    level = METHODS["dino"](prototypes=prototypes).collapse_level(128)  # type: ignore[call-arg]
    assert level == ("teacher/entropy", math.log(prototypes))
    centre = torch.randn(prototypes, dtype=dtype, generator=torch.Generator().manual_seed(0))
    targets = dino_targets(centre.repeat(4, 1), centre, 0.04)
    assert mean_entropy(targets).item() == pytest.approx(level.value, rel=1e-6)
    loss = dino_loss(torch.full((4, prototypes), 0.7, dtype=dtype), targets, 0.1)
    assert loss.item() == pytest.approx(level.value, rel=1e-6)


def test_dinos_loss_is_the_entropy_of_the_targets_and_their_divergence_from_the_student() -> None:
    targets = dino_targets(Z2, CENTRE, 0.2)
    student = (Z1 / 0.1).softmax(dim=1)
    divergence = (targets * (targets / student).log()).sum(dim=1).mean()
    torch.testing.assert_close(dino_loss(Z1, targets, 0.1), mean_entropy(targets) + divergence)
    assert mean_entropy(torch.eye(3)) == 0


def test_nt_xent_in_many_blocks_equals_nt_xent_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    z = projections(10)
    one_block = nt_xent_loss(z, IDS["two views"], 0.2)
    monkeypatch.setitem(blockwise.BLOCK, "cpu", 35)  # three rows of ten per block, and one in the last
    assert_same_loss(
        lambda z: nt_xent_loss(z, IDS["two views"], 0.2), lambda z: reference.supcon(z, IDS["two views"], 0.2), z
    )
    torch.testing.assert_close(nt_xent_loss(z, IDS["two views"], 0.2), one_block, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_pass_gradcheck(name: str) -> None:
    loss, inputs = LOSSES[name]
    first, *others = inputs
    checked = [first.clone().requires_grad_(), *(z.clone().requires_grad_(name not in STOPS_GRADIENT) for z in others)]
    assert torch.autograd.gradcheck(loss, checked)


@pytest.mark.parametrize("name", ["barlow_twins", "simsiam", "lejepa", "moco_v3", "info_nce", "moco_v2", "dino"])
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    loss, inputs = LOSSES[name]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(*(z[order] for z in inputs)), loss(*inputs), rtol=1e-12, atol=0)


def test_the_order_of_the_batch_does_not_matter_to_nt_xent() -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    permuted = nt_xent_loss(Z1[order], CLASSES[order], 0.2)
    torch.testing.assert_close(permuted, nt_xent_loss(Z1, CLASSES, 0.2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["nt_xent", "simsiam", "moco_v3", "info_nce", "moco_v2"])
def test_the_norm_of_a_projection_does_not_matter(name: str) -> None:
    loss, inputs = LOSSES[name]
    lengths = torch.linspace(0.1, 100, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(*(z * lengths for z in inputs)), loss(*inputs), rtol=1e-10, atol=0)


def test_the_scale_and_shift_of_a_dimension_do_not_matter_to_barlow_twins() -> None:
    scale, shift = torch.linspace(10, 100, 6, dtype=torch.float64), projections(1)
    z1, z2 = 100 * Z1, 100 * Z2  # far above eps
    torch.testing.assert_close(
        barlow_twins_loss(z1 * scale + shift, z2, 5e-3, 1.0), barlow_twins_loss(z1, z2, 5e-3, 1.0), rtol=1e-6, atol=0
    )


def test_orthogonal_pairs_have_the_closed_form_of_nt_xent() -> None:
    z = torch.eye(4, dtype=torch.float64).repeat(2, 1)  # both views equal, images orthogonal
    expected = -1 / 0.5 + math.log(math.exp(1 / 0.5) + 6)
    assert nt_xent_loss(z, torch.arange(4).repeat(2), 0.5).item() == pytest.approx(expected, rel=1e-12)


def test_one_class_of_equal_projections_has_the_closed_form_of_supcon() -> None:
    z = torch.ones(6, 3, dtype=torch.float64)
    assert nt_xent_loss(z, torch.zeros(6, dtype=torch.int64), 0.1).item() == pytest.approx(math.log(5), rel=1e-12)


def test_uncorrelated_equal_views_have_the_closed_form_of_barlow_twins() -> None:
    z = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    c = 1 / (1 + 1e-5)  # the diagonal, slightly below 1 because of eps; all other entries are 0
    assert barlow_twins_loss(z, z, 0.3, 1.0).item() == pytest.approx(2 * (1 - c) ** 2, rel=1e-9)
    swapped = 2 + 0.3 * 2 * c**2  # each dimension correlates with the other one only
    assert barlow_twins_loss(z, z.flip(1), 0.3, 1.0).item() == pytest.approx(swapped, rel=1e-12)


def test_parallel_and_opposite_predictions_have_the_closed_form_of_simsiam() -> None:
    assert negative_cosine_similarity(Z1, 3 * Z1).item() == pytest.approx(-1, rel=1e-12)
    assert negative_cosine_similarity(Z1, -Z1).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_equal_projections_have_moco_v3s_collapse_level(temperature: float) -> None:
    level = METHODS["moco_v3"](temperature=temperature).collapse_level(256)  # type: ignore[call-arg]
    same = torch.ones(256, 6, dtype=torch.float64)
    assert level == ("loss", pytest.approx(4 * temperature * math.log(256)))
    both_directions = 2 * moco_v3_loss(same, same, temperature)
    assert both_directions.item() == pytest.approx(level.value, abs=1e-6)  # type: ignore[union-attr]


def test_equal_projections_have_at_least_lejepas_collapse_level_and_normal_ones_a_constant() -> None:
    level = METHODS["lejepa"]().collapse_level(32)  # type: ignore[call-arg]
    zeros = torch.zeros(2, 32, 6, dtype=torch.float64)
    assert lejepa_terms(zeros, 2, DIRECTIONS) == (0, pytest.approx(level.value, abs=1e-6))
    for constant in (0.1, 1.0, 10.0):
        assert lejepa_terms(zeros + constant, 2, DIRECTIONS).sigreg > level.value
    normal = projections(800 * 32).view(800, 32, 6)
    assert lejepa_terms(normal, 2, DIRECTIONS).sigreg.item() == pytest.approx(1.0525, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nt_xent_is_finite_at_temperature_001_in_any_precision(dtype: torch.dtype) -> None:
    z = torch.cat([projections(6), projections(6) + 0.01]).to(dtype).requires_grad_()
    loss = nt_xent_loss(z, torch.arange(6).repeat(2), 0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_to_float32(name: str, dtype: torch.dtype) -> None:
    loss, inputs = LOSSES[name]
    half = [z.to(dtype) for z in inputs]
    assert torch.equal(loss(*half), loss(*(z.float() for z in half)))


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_change_a_loss(name: str) -> None:
    loss, inputs = LOSSES[name]
    single = [z.float() for z in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with_autocast = loss(*single)
    assert torch.equal(with_autocast, loss(*single))


@pytest.mark.parametrize("name", LOSSES)
def test_equal_projections_give_a_finite_loss_and_gradient(name: str) -> None:
    loss, inputs = LOSSES[name]
    for value in (0.0, 1.0):
        same = [torch.full_like(z, value).requires_grad_() for z in inputs]
        total = loss(*same)
        total.backward()
        assert total.isfinite()
        assert same[0].grad is not None
        assert same[0].grad.isfinite().all()


def test_mismatched_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"z is \[4, 6\] and ids is \[3\]"):
        nt_xent_loss(projections(4), torch.arange(3), 0.2)
    with pytest.raises(ValueError, match=r"q is \[4, 6\] and keys is \[8, 5\], expected \[B, D\] and \[W B, D\]"):
        moco_v3_loss(projections(4), projections(8, dim=5), 0.2)
    with pytest.raises(ValueError, match=r"z is \[2, 4, 6\], directions \[3, 5\], expected \[V, B, D\] and"):
        lejepa_terms(torch.zeros(2, 4, 6), 2, torch.zeros(3, 5))
    for loss in (lambda a, b: barlow_twins_loss(a, b, 5e-3, 1.0), negative_cosine_similarity):
        with pytest.raises(ValueError, match=r"is \[4, 6\] and . ?.* is \[3, 6\], expected \[B, D\] twice"):
            loss(projections(4), projections(3))


def test_mismatched_rows_are_named() -> None:
    with pytest.raises(ValueError, match=r"the rows are \[4, 6\] and \[3, 6\], expected \[B, D\] twice"):
        info_nce_loss(projections(4), projections(3), 0.2)
    with pytest.raises(ValueError, match=r"the rows are"):
        moco_v2_loss(projections(4), projections(3), QUEUE, 0.2)
    with pytest.raises(ValueError, match=r"scores are \[4, 6\] and targets \[3, 6\], expected \[B, K\] twice"):
        dino_loss(projections(4), projections(3), 0.2)


@pytest.mark.parametrize(("views", "full_size", "rows"), [(2, 3, 8), (1, 1, 8), (2, 0, 8), (2, 2, 7)])
def test_assignments_that_are_not_those_of_the_scores_are_named(views: int, full_size: int, rows: int) -> None:
    with pytest.raises(ValueError, match=rf"scores are \[{views}, 8, 6\] and assignments \[{full_size}, {rows}, 6\]"):
        swav_loss(torch.zeros(views, 8, 6), torch.zeros(full_size, rows, 6), 0.1)


@pytest.mark.parametrize("ids", [[5], [3, 3, 3], [7, -2, 7, 0, -2, 9], list(range(9, -1, -1)), [2**62, -(2**62), 0]])
def test_rows_are_grouped_as_unique_groups_them(ids: list[int]) -> None:
    tensor = torch.tensor(ids)
    _, inverse, counts = tensor.unique(return_inverse=True, return_counts=True)
    group, others = grouped(tensor)
    assert torch.equal(others, counts[inverse] - 1)
    assert torch.equal(group, (counts.cumsum(0) - counts)[inverse])  # a number of its own for each id, below N
