"""Claims about every method, and about the base that they share."""

import pytest
import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.methods import ContrastiveModule, build_method
from cl.optim.schedules import Budget
from tests import reference
from tests.conftest import TINY

VIT = "timm/vit_tiny_patch16_224"


def build(method: str, *flags: str, encoder: str = "resnet18") -> ContrastiveModule:
    narrow = TINY if encoder == "resnet18" else TINY[2:]  # without --width
    config = parse(Pretrain, ["digits", encoder, "--method", method, *narrow, "--proj_output_dim", "8", *flags]).config
    torch.manual_seed(0)
    module = build_method(config, classes=4, budget=Budget(16, 2, 10))
    module.make_up_targets()
    return module


def batch(labels: bool = True, small: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.randn(v, 16, 3, size, size, generator=generator) for v, size in ((2, 8), (small, 6)) if v)
    return Batch(torch.arange(16), views, torch.arange(16) % 4 if labels else torch.full((16,), -1))


def double(images: Batch) -> Batch:
    return Batch(images.index, tuple(views.double() for views in images.views), images.target)


@pytest.mark.parametrize("small", [0, 6])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_reaches_every_parameter_with_a_finite_gradient(name: str, small: int) -> None:
    module = build(name, "--no_zero_init_residual")  # zeros stop the gradient of what comes before them
    module.training_step(batch(small=small), 0).backward()
    for parameter, weight in module.named_parameters():
        if not weight.requires_grad:  # a teacher's
            assert weight.grad is None, parameter
            continue
        assert weight.grad is not None, parameter
        assert weight.grad.isfinite().all(), parameter
        assert weight.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", METHODS)
def test_the_online_head_changes_nothing_but_itself(name: str) -> None:
    module, gradients = build(name), []
    learned = {key for key, w in module.named_parameters() if w.requires_grad and not key.startswith("online_head")}
    for scale in (1, 1000):
        module.zero_grad()
        module.online_head.weight.data.mul_(scale)
        module.training_step(batch(), 0).backward()
        gradients.append({key: module.get_parameter(key).grad.clone() for key in learned})
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in learned)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_labels_trains_without_nan(name: str) -> None:
    module = build(name)
    loss = module.training_step(batch(labels=False), 0)
    loss.backward()
    assert loss.isfinite()
    assert (module.online_head.weight.grad == 0).all()  # type: ignore[union-attr]
    assert "online_linear/train_top1" not in module.means.compute()


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_is_in_one_group_and_the_head_has_its_own_rate_without_decay(name: str) -> None:
    for flags in ([], ["--optimizer", "sgd", "--lars"]):
        module = build(name, "--lr", "0.5", "--classifier_lr", "2", "--weight_decay", "0.1", *flags)
        *learned, online = module.configure_optimizers()["optimizer"].param_groups
        found = [id(p) for group in (*learned, online) for p in group["params"]]
        assert sorted(found) == sorted(id(p) for p in module.parameters() if p.requires_grad)
        assert [id(p) for p in online["params"]] == [id(p) for p in module.online_head.parameters()]
        assert online["weight_decay"] == 0
        assert online["initial_lr"] == 2 * 16 / 256
        assert {group["initial_lr"] for group in learned} == {0.5 * 16 / 256}


@pytest.mark.parametrize("name", METHODS)
def test_lars_adapts_matrices_of_the_learned_network_and_nothing_else(name: str) -> None:
    groups = build(name, "--optimizer", "sgd", "--lars").configure_optimizers()["optimizer"].param_groups
    for group in groups[:-1]:
        assert {p.ndim > 1 for p in group["params"]} == {group["always_adapt"]}
        assert (group["weight_decay"] > 0) == group["always_adapt"]
    assert not groups[-1]["always_adapt"]


def test_simsiams_predictor_keeps_its_rate_and_can_be_told_not_to() -> None:
    for flags, scheduled in ((["--no_lr_scheduler_for_pred_head"], False), (["--lr_scheduler_for_pred_head"], True)):
        module = build("simsiam", *flags)
        groups = module.configure_optimizers()["optimizer"].param_groups
        assert [group["scheduled"] for group in groups] == [True, scheduled, True]
        assert [id(p) for p in groups[1]["params"]] == [id(p) for p in module.predictor.parameters()]


def z_of(module: ContrastiveModule, images: Batch) -> list[Tensor]:
    """The projections of all views, each view forwarded by itself."""
    return [module.projector(module(view)) for views in images.views for view in views]


@pytest.mark.parametrize("small", [0, 6])
def test_simsiam_is_the_mean_over_full_size_views_and_all_others(small: int) -> None:
    module = build("simsiam").double()
    images = double(batch(labels=False, small=small))
    z = z_of(module, images)
    p = [module.predictor(each) for each in z]
    terms = [reference.negative_cosine(p[v], z[g]) for g in (0, 1) for v in range(len(z)) if v != g]
    assert len(terms) == (2 if small == 0 else 14)
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_barlow_twins_is_the_mean_over_full_size_views_and_all_others(small: int) -> None:
    module = build("barlow_twins", "--lamb", "0.005").double()
    images = double(batch(labels=False, small=small))
    z = z_of(module, images)
    pairs = [(g, v) for g in (0, 1) for v in range(len(z)) if v != g]
    expected = sum(reference.barlow_twins(z[g], z[v], 5e-3, 1.0) for g, v in pairs) / len(pairs)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("name", "temperature"), [("simclr", 0.2), ("supcon", 0.1)])
def test_simclr_and_supcon_take_all_views_as_anchors_and_positives(name: str, temperature: float) -> None:
    module = build(name).double()
    images = double(batch(small=6))
    images.target[3] = images.target[5] = -1
    z = torch.cat([module.projector(module(views.flatten(0, 1))) for views in images.views])
    ids = {"simclr": images.index, "supcon": torch.where(images.target < 0, 100 + images.index, images.target)}[name]
    expected = reference.supcon(z, ids.repeat(8), temperature)
    torch.testing.assert_close(module.step(images).loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_decoupled_simclr_leaves_all_views_of_the_image_out_of_the_denominator(small: int) -> None:
    module = build("simclr", "--decoupled").double()
    images = double(batch(small=small))
    z = torch.cat([module.projector(module(views.flatten(0, 1))) for views in images.views])
    expected = reference.dcl(z, images.index.repeat(2 + small), 0.2)
    torch.testing.assert_close(module.step(images).loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_byol_is_the_sum_of_both_directions_and_with_crops_the_mean_over_all_others(small: int) -> None:
    module = build("byol").double()
    with torch.no_grad():  # a teacher that is not the student
        for parameter in module.teacher.parameters():
            parameter.mul_(0.9)
    images = double(batch(labels=False, small=small))
    p = [module.predictor(each) for each in z_of(module, images)]
    targets = [module.teacher.projector(module.teacher.backbone(view)) for view in images.views[0]]
    terms = [reference.byol(p[v], targets[g]) for g in (0, 1) for v in range(len(p)) if v != g]
    expected = 2 * sum(terms) / len(terms)
    assert len(terms) == (2 if small == 0 else 14)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_moco_v3_is_the_sum_of_both_directions_and_with_crops_the_mean_over_all_others(small: int) -> None:
    module = build("moco_v3", "--temperature", "0.4").double()
    with torch.no_grad():  # a teacher that is not the student
        for parameter in module.teacher.parameters():
            parameter.mul_(0.9)
    images = double(batch(labels=False, small=small))
    q = [module.predictor(each) for each in z_of(module, images)]
    keys = [module.teacher.projector(module.teacher.backbone(view)) for view in images.views[0]]
    terms = [reference.moco_v3(q[v], keys[g], 0.4) for g in (0, 1) for v in range(len(q)) if v != g]
    expected = 2 * sum(terms) / len(terms)
    assert len(terms) == (2 if small == 0 else 14)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


def test_moco_v3_freezes_the_random_patch_embedding_of_a_vision_transformer() -> None:
    module = build("moco_v3", "--crop_size", "16", encoder=VIT)
    start = module.backbone.patch_embed.proj.weight.clone()
    optimizer = module.configure_optimizers()["optimizer"]
    images = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    module.training_step(Batch(torch.arange(8), (images,), torch.full((8,), -1)), 0).backward()
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad and not name.startswith("teacher.")}
    assert frozen == {"backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"}
    optimizer.step()
    module.after_step(torch.ones(()))
    for network in (module.backbone, module.teacher.backbone):
        assert torch.equal(network.patch_embed.proj.weight, start)
    assert start.std() > 0.01
    assert all(p.requires_grad for p in build("byol", "--crop_size", "16", encoder=VIT).backbone.parameters())


@pytest.mark.parametrize("small", [0, 6])
def test_nnclr_is_the_mean_over_neighbours_of_full_size_views_and_all_others(small: int) -> None:
    module = build("nnclr").double()
    images = double(batch(labels=False, small=small))
    z = z_of(module, images)
    p = [module.predictor(each) for each in z]
    rows = module.queue.rows.clone()
    neighbours = [rows[[reference.nearest(each, rows) for each in z[g]]] for g in (0, 1)]
    terms = [reference.info_nce(neighbours[g], p[v], 0.2) for g in (0, 1) for v in range(len(z)) if v != g]
    assert len(terms) == (2 if small == 0 else 14)
    torch.testing.assert_close(module.training_step(images, 0), sum(terms) / len(terms), rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_moco_v2_is_the_mean_over_keys_of_full_size_views_and_all_others(small: int) -> None:
    module = build("moco_v2").double()
    with torch.no_grad():  # a teacher that is not the student
        for parameter in module.teacher.parameters():
            parameter.mul_(0.9)
    images = double(batch(labels=False, small=small))
    q = z_of(module, images)
    keys = [module.teacher.projector(module.teacher.backbone(view)) for view in images.views[0]]
    negatives = [module.queue.rows[:, g].clone() for g in (0, 1)]
    terms = [reference.moco_v2(q[v], keys[g], negatives[g], 0.1) for g in (0, 1) for v in range(len(q)) if v != g]
    assert len(terms) == (2 if small == 0 else 14)
    torch.testing.assert_close(module.training_step(images, 0), sum(terms) / len(terms), rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_swav_is_the_mean_over_assignments_of_full_size_views_and_all_other_predictions(small: int) -> None:
    """Each resolution is one forward pass, the head one over all, and each full-size view is assigned by itself."""
    module = build("swav", "--prototypes", "5").double()
    images = double(batch(labels=False, small=small))
    features = torch.cat([module(views.flatten(0, 1)) for views in images.views])
    z = module.projector(features)
    scores = [each @ module.prototypes.weight.T for each in (z / z.norm(dim=1, keepdim=True)).split(16)]
    assigned = [reference.sinkhorn(each, 0.02, 3) for each in scores[:2]]
    expected = reference.swav(scores, assigned, 0.1)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_vicreg_is_the_official_loss_over_full_size_views_and_all_others(small: int) -> None:
    module = build("vicreg").double()
    images = double(batch(labels=False, small=small))
    z = z_of(module, images)
    pairs = [(g, v) for g in (0, 1) for v in range(len(z)) if v != g]
    expected = reference.vicreg(z, pairs)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


def test_vicreg_of_two_views_is_the_official_code_line_by_line() -> None:
    """25 mse + 25 (std_x + std_y) / 2 + (cov_x + cov_y), with the covariance a sum over both views."""
    module = build("vicreg").double()
    images = double(batch(labels=False))
    x, y = z_of(module, images)
    centred = [each - each.mean(dim=0) for each in (x, y)]
    spread = sum(torch.relu(1 - (each.var(dim=0) + 1e-4).sqrt()).mean() / 2 for each in centred)
    covariances = [(each.T @ each) / (len(each) - 1) for each in centred]
    off = sum((c - torch.diag(c.diagonal())).square().sum() / len(c) for c in covariances)
    expected = 25 * nn.functional.mse_loss(x, y) + 25 * spread + off
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("small", [0, 6])
def test_lejepa_compares_all_views_with_the_mean_of_the_full_size_ones(small: int) -> None:
    module = build("lejepa", "--sigreg_weight", "0.3", "--sigreg_directions", "5").double()
    images = double(batch(labels=False, small=small))
    z = [part for views in images.views for part in module.projector(module(views.flatten(0, 1))).split(16)]
    expected = reference.lejepa(z, 2, module.directions(torch.device("cpu")), 0.3)
    torch.testing.assert_close(module.training_step(images, 0), expected, rtol=1e-10, atol=0)


def test_lejepas_directions_depend_on_seed_and_step_alone() -> None:
    first, again, other = build("lejepa"), build("lejepa"), build("lejepa", "--seed", "1")
    drawn = []
    for step, module in ((0, first), (0, again), (1, again), (0, other)):
        module.step_index = step
        state = torch.get_rng_state()
        drawn.append(module.directions(torch.device("cpu")))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_supcon_without_labels_is_simclr() -> None:
    simclr, supcon = (build(name, "--temperature", "0.3") for name in ("simclr", "supcon"))
    assert torch.equal(simclr.training_step(batch(labels=False), 0), supcon.training_step(batch(labels=False), 0))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_forwards_its_views_together_or_one_by_one(name: str) -> None:
    module, sizes = build(name), []
    module.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    module.training_step(batch(), 0)
    assert sizes == ([32] if module.views_together else [16, 16])


def test_batch_norm_sees_the_views_that_it_sees_in_the_papers() -> None:
    """SimCLR's and SupCon's both views together, Barlow Twins' and SimSiam's one view at a time."""
    together = {name: build(name).views_together for name in ("simclr", "supcon", "barlow_twins", "simsiam")}
    assert together == {"simclr": True, "supcon": True, "barlow_twins": False, "simsiam": False}


def layers(module: nn.Module) -> list[str]:
    """The layers of a head as the papers write them."""
    names = []
    for layer in module.children():
        if isinstance(layer, nn.Linear):
            names.append("linear" + "+b" * (layer.bias is not None))
        elif isinstance(layer, nn.BatchNorm1d):
            names.append("bn" if layer.affine else "bn without affine")
        else:
            names.append(type(layer).__name__.lower())
    return names


def test_the_heads_are_the_papers() -> None:
    hidden = ["linear", "bn", "relu"]
    assert layers(build("simclr").projector) == ["linear+b", "relu", "linear+b"]
    assert layers(build("simclr", "--proj_batch_norm").projector) == [*hidden, "linear", "bn"]
    assert layers(build("barlow_twins").projector) == [*hidden, *hidden, "linear"]
    assert layers(build("lejepa").projector) == [*hidden, *hidden, "linear+b"]
    assert layers(build("moco_v3").projector) == [*hidden, "linear", "bn without affine"]
    assert layers(build("moco_v3").predictor) == [*hidden, "linear"]
    transformer = build("moco_v3", "--crop_size", "16", encoder=VIT)
    assert layers(transformer.projector) == [*hidden, *hidden, "linear", "bn without affine"]
    assert layers(transformer.predictor) == [*hidden, "linear", "bn without affine"]
    assert layers(build("simsiam").projector) == [*hidden, *hidden, "linear", "bn without affine"]
    assert layers(build("simsiam").predictor) == [*hidden, "linear+b"]
    assert layers(build("moco_v2", "--no_proj_batch_norm").projector) == ["linear+b", "relu", "linear+b"]
    assert layers(build("moco_v2").projector) == [*hidden, "linear", "bn"]  # the preset on digits
    assert layers(build("nnclr").projector) == [*hidden, *hidden, "linear", "bn"]
    assert layers(build("nnclr").predictor) == [*hidden, "linear+b"]
    assert layers(build("swav").projector) == [*hidden, "linear+b"]
    assert layers(build("dino", "--no_head_batch_norm").projector) == [
        "linear+b",
        "gelu",
        "linear+b",
        "gelu",
        "linear+b",
    ]
    gelu = ["linear", "bn", "gelu"]
    assert layers(build("dino").projector) == [*gelu, *gelu, "linear+b"]  # the preset on digits
    predictor = build("simsiam", "--proj_output_dim", "8", "--pred_hidden_dim", "3").predictor
    assert [layer.weight.shape for layer in predictor if isinstance(layer, nn.Linear)] == [(3, 8), (8, 3)]


def test_simsiams_residual_branches_start_at_zero() -> None:
    assert parse(Pretrain, ["cifar10", "resnet18", "--method", "simsiam"]).config.backbone.zero_init_residual
    assert not build("simsiam", "--zero_init_residual").backbone.layer1[0].bn2.weight.any()
    assert build("simclr").backbone.layer1[0].bn2.weight.all()
