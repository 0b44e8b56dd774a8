"""DINO: the teacher is evaluated; centre, temperatures, decay, clipping and the frozen layer are the paper's."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

import cl
from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.config.views import PretrainViewsConfig
from cl.data.views.spec import pretrain_views
from cl.errors import UserError
from cl.methods import ContrastiveModule
from cl.methods.centre import Centre
from cl.methods.scheduled import LinearWarmup
from cl.optim.gradients import clip_each_gradient
from tests import reference
from tests.conftest import TINY, Run
from tests.kills import state_of
from tests.pictures import write_classes
from tests.test_embed import call
from tests.test_methods import batch, build, double
from tests.test_state import SKIPPED, TAKEN

PRETRAIN = "main_contrastive.py"
SHORT = ["digits", "resnet18", *TINY, "--method", "dino", "--knn_every", "1"]


@pytest.mark.parametrize("small", [0, 6])
def test_dino_is_the_mean_over_the_teachers_full_size_views_and_all_others(small: int) -> None:
    """Each resolution is one forward pass, the head one over all views."""
    module = build("dino", "--prototypes", "5", "--teacher_temperature", "0.3", "--temperature", "0.5").double()
    with torch.no_grad():  # a teacher that is not the student, and a centre
        for parameter in module.teacher.parameters():
            parameter.mul_(0.9)
        module.centre.values.copy_(torch.linspace(-1, 1, 5))
    images = double(batch(labels=False, small=small))
    z = module.projector(torch.cat([module.backbone(views.flatten(0, 1)) for views in images.views]))
    directions = torch.stack([row / row.norm() for row in module.prototypes.weight])
    scores = rearrange(torch.stack([row / row.norm() for row in z]) @ directions.T, "(v b) k -> v b k", b=16)
    teacher = module.teacher
    targets = teacher.prototypes(teacher.projector(teacher.backbone(images.views[0].flatten(0, 1)))).split(16)
    terms = [
        reference.dino(scores[v], targets[g], module.centre.values, 0.5, 0.3)
        for g in (0, 1)
        for v in range(len(scores))
        if v != g
    ]
    assert len(terms) == (2 if small == 0 else 14)
    torch.testing.assert_close(module.training_step(images, 0), sum(terms) / len(terms), rtol=1e-10, atol=0)


def test_small_crops_are_seen_by_the_student_only() -> None:
    module, sizes = build("dino"), []
    module.teacher.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    module.training_step(batch(small=6), 0)
    assert sizes == [(32, 3, 8, 8)]


def test_equal_scores_cost_exactly_ln_k() -> None:
    module = build("dino", "--prototypes", "100")
    with torch.no_grad():
        for prototypes in (module.prototypes, module.teacher.prototypes):
            prototypes.weight.copy_(prototypes.weight[:1].expand(100, -1))
    output = module.step(batch(small=6))
    assert output.loss.item() == pytest.approx(math.log(100), abs=1e-6)
    assert [value.item() for value in output.metrics.values()] == pytest.approx([math.log(100)] * 2, abs=1e-6)


def test_the_prototypes_are_normalised_where_they_are_used() -> None:
    one, two = build("dino").double(), build("dino").double()
    with torch.no_grad():
        for prototypes in (two.prototypes, two.teacher.prototypes):
            prototypes.weight.mul_(torch.linspace(0.1, 10, 256, dtype=torch.float64)[:, None])
    torch.testing.assert_close(one.step(double(batch())).loss, two.step(double(batch())).loss, rtol=1e-12, atol=0)


def test_the_centre_moves_to_the_mean_of_a_steps_rows_once_and_starts_at_zero() -> None:
    centre = Centre(2, momentum=0.75)
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 0.0]])
    centre.add(rows[:2])  # batches of a step may differ in size
    centre.add(rows[2:])
    assert not centre.values.any()
    centre.commit(TAKEN)
    assert centre.values.tolist() == [1.0, 0.5]  # a quarter of the mean
    centre.add(torch.full((1, 2), torch.nan))
    centre.commit(SKIPPED)
    assert centre.values.tolist() == [1.0, 0.5]
    centre.add(torch.zeros(2, 2))
    centre.commit(TAKEN)
    assert centre.values.tolist() == [0.75, 0.375]


def test_a_step_uses_the_centre_of_the_steps_before_it_and_returns_the_teachers_features() -> None:
    module = build("dino").double()
    images = double(batch())
    teacher = module.teacher
    features = teacher.backbone(images.views[0].flatten(0, 1))
    scores = teacher.prototypes(teacher.projector(features)).detach()
    taught, targets = module.teach(images.views[0])
    assert torch.equal(targets.flatten(0, 1), (scores / 0.04).softmax(dim=1))
    assert torch.equal(taught.flatten(0, 1), features)
    assert torch.equal(module.step(images).features, taught)  # for the online head
    module.after_step(TAKEN)
    torch.testing.assert_close(module.centre.values, 0.1 * scores.mean(dim=0))


def test_the_teachers_temperature_rises_in_a_straight_line_by_the_step() -> None:
    ramp = LinearWarmup(0.04, 0.07, 30)
    assert [ramp(step) for step in (0, 10, 30, 1000)] == pytest.approx([0.04, 0.05, 0.07, 0.07])
    flags = ["--teacher_temperature", "0.08", "--teacher_temperature_warmup_epochs", "2"]  # of two steps
    module = build("dino", *flags)
    assert [module.temperature(step) for step in (0, 1, 4, 9)] == pytest.approx([0.04, 0.05, 0.08, 0.08])
    assert build("dino", "--teacher_temperature", "0.02").temperature(0) == 0.02  # without a warm-up


@pytest.mark.parametrize("flags", [["--optimizer", "sgd", "--lars"], ["--no_decay_biases_and_norms"], []])
@pytest.mark.parametrize("name", ["dino", "simsiam"])
def test_the_weight_decay_follows_half_a_cosine_and_zero_stays_zero(name: str, flags: list[str]) -> None:
    module = build(name, "--weight_decay", "0.04", "--weight_decay_end", "0.4", *flags)
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step(batch(), 0).backward()
    for step in range(10):
        module.step_index = step
        module.prepare_gradients(optimizer)
        expected = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / 10)) / 2
        for group in optimizer.param_groups[:-1]:
            decayed = any(p.ndim > 1 for p in group["params"]) or not flags
            assert group["weight_decay"] == pytest.approx(expected if decayed else 0.0)
        assert optimizer.param_groups[-1]["weight_decay"] == 0  # the online head's


def test_a_decay_that_begins_at_zero_spares_biases_and_norms_all_the_same() -> None:
    module = build("dino", "--weight_decay", "0", "--weight_decay_end", "0.4", "--no_decay_biases_and_norms")
    groups = module.configure_optimizers()["optimizer"].param_groups[:-1]
    assert {(p.ndim > 1, "decay_scheduled" in group) for group in groups for p in group["params"]} == {
        (True, True),
        (False, False),
    }


def test_each_gradient_is_clipped_to_its_own_norm() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(4)]
    for parameter, gradient in zip(parameters, ([3.0, 4.0], [0.3, 0.4], [torch.nan, 0.0]), strict=False):
        parameter.grad = torch.tensor(gradient)
    clip_each_gradient(parameters, 2.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([1.2, 1.6]))
    assert parameters[1].grad.tolist() == pytest.approx([0.3, 0.4])  # type: ignore[union-attr]
    assert parameters[2].grad.isnan().all()  # type: ignore[union-attr]  # and the step is skipped
    assert parameters[3].grad is None
    config = parse(Pretrain, ["cifar10", "resnet18", "--method", "dino"]).config.optim
    assert (config.clip_grad, config.clip_each_parameter) == (3.0, True)
    module = build("dino", "--clip_grad", "0.01")
    module.training_step(batch(), 0).backward()
    module.prepare_gradients(module.configure_optimizers()["optimizer"])
    norms = torch.stack([p.grad.norm() for p in module._learned()])
    assert norms.max() == pytest.approx(0.01, rel=1e-3)
    assert norms.norm() > 0.02  # of all together


def test_the_last_layer_is_frozen_for_its_epochs_with_an_empty_state() -> None:
    module = build("dino", "--freeze_last_layer_epochs", "1.5", "--weight_decay", "0.1")  # three of ten steps
    optimizer = module.configure_optimizers()["optimizer"]
    weight = module.prototypes.weight
    start, teacher = weight.clone(), module.teacher.prototypes.weight
    for step in range(4):
        optimizer.zero_grad()
        module.training_step(batch(), 0).backward()
        module.prepare_gradients(optimizer)
        optimizer.step()
        module.after_step(TAKEN)
        module.step_index += 1
        assert torch.equal(weight, start) == (step < 3)
        assert (len(optimizer.state[weight]) == 0) == (step < 3)
        assert step > 2 or torch.equal(teacher, start)


def test_a_whole_run_keeps_the_last_layer_for_an_epoch(run: Run, folder: Path) -> None:
    flags = [*SHORT, "--freeze_last_layer_epochs", "1", "--weight_decay", "0.04", "--weight_decay_end", "0.4"]
    flags += ["--batch_size", "256", "--epochs", "2", "--checkpoint_every_n_steps", "1", "--run_id"]  # 5 steps an epoch
    name = "/state_dict/prototypes.weight"
    assert run(PRETRAIN, *flags, "first", "--max_steps", "1")[0] == 0
    assert run(PRETRAIN, *flags, "epoch", "--max_steps", "5")[0] == 0
    assert run(PRETRAIN, *flags, "whole")[0] == 0
    first, epoch, whole = (state_of(folder / f"trained_models/{run_id}") for run_id in ("first", "epoch", "whole"))
    assert torch.equal(first[name], epoch[name])
    assert not torch.equal(epoch[name], whole[name])


@pytest.mark.parametrize(
    ("values", "crops", "expected"),
    [
        ((1.0, 0.1, 0.5), 2, [1.0, 0.1, 0.5, 0.5, 0.5]),
        ((1.0, 0.1, 0.5), 3, [1.0, 0.1, 1.0, 0.5, 0.5, 0.5]),
        ((1.0, 0.1), 2, [1.0, 0.1, 1.0, 0.1, 1.0]),
        ((0.3,), 2, [0.3] * 5),
    ],
)
def test_of_three_probabilities_the_third_is_that_of_small_crops(
    values: tuple[float, ...], crops: int, expected: list[float]
) -> None:
    config = PretrainViewsConfig(
        n_crops=crops, multicrop=True, n_small_crops=3, gaussian_prob=values, solarization_prob=values
    )
    specs = [spec for resolution in pretrain_views(config) for spec in resolution]
    assert [spec.blur_prob for spec in specs] == expected
    assert [spec.solarize_prob for spec in specs] == expected


def test_dinos_views_are_the_papers_for_each_kind() -> None:
    config = parse(Pretrain, ["imagenet100", "resnet18", "--method", "dino", "--multicrop"]).config.views
    full, crops = pretrain_views(config)
    assert [(spec.blur_prob, spec.solarize_prob) for spec in full] == [(1.0, 0.0), (0.1, 0.2)]
    assert {(spec.blur_prob, spec.solarize_prob) for spec in crops} == {(0.5, 0.0)}


def test_small_crops_that_are_never_blurred_may_be_too_small_for_a_blur() -> None:
    sizes = {"multicrop": True, "crop_size": 32, "small_crop_size": 12}
    PretrainViewsConfig(gaussian_prob=(0.5, 0.5, 0.0), **sizes)
    with pytest.raises(UserError, match="with views of 12 pixels"):
        PretrainViewsConfig(gaussian_prob=(0.0, 0.0, 0.5), **sizes)


def test_the_diagnostics_look_at_the_teachers_bottleneck() -> None:
    module = build("dino", "--proj_output_dim", "7").eval()
    with torch.no_grad():
        for parameter in module.projector.parameters():
            parameter.zero_()
        z = module.embed(batch().views[0][0])
    assert z.shape == (16, 7)
    assert z.std(dim=0).min() > 0


def test_everything_evaluates_the_teacher(
    run: Run, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation, kNN, card, export, checkpoint and embed; linear evaluation is in test_state."""
    seen = {"student": 0, "teacher": 0}
    validate = ContrastiveModule.validation_step

    def count(self: ContrastiveModule, images: Batch, number: int) -> None:
        hooks = [
            network.register_forward_hook(lambda *_, name=name: seen.update({name: seen[name] + 1}))
            for name, network in (("student", self.backbone), ("teacher", self.teacher.backbone))
        ]
        validate(self, images, number)
        for hook in hooks:
            hook.remove()

    monkeypatch.setattr(ContrastiveModule, "validation_step", count)
    assert run(PRETRAIN, *SHORT, "--max_steps", "6", "--run_id", "run")[0] == 0
    assert seen["student"] == 0 < seen["teacher"]
    weights = torch.load("trained_models/run/last.ckpt", weights_only=True)["state_dict"]
    exported = cl.load_backbone("trained_models/run").state_dict()
    assert all(torch.equal(value, weights[f"teacher.backbone.{name}"]) for name, value in exported.items())
    assert not all(torch.equal(value, weights[f"backbone.{name}"]) for name, value in exported.items())
    row = json.loads(Path("trained_models/run/summary.json").read_text())
    card = json.loads(Path("trained_models/run/backbone.json").read_text())
    assert card["metrics"]["knn/val_top1"] == row["knn/val_top1"]
    assert row["teacher/ln_prototypes"] == pytest.approx(math.log(256))
    assert 0 < row["teacher/entropy"] < math.log(256)
    write_classes(folder / "images", {"a": 3, "b": 3})
    checkpoint = "trained_models/run/last.ckpt"
    sources = (["trained_models/run"], [checkpoint], [checkpoint, "--weights_key", "backbone"])
    found = []
    for source in sources:
        assert call(capsys, monkeypatch, *source, "images", "--out", "f.npz", "--num_workers", "0")[0] == 0
        found.append(np.load("f.npz")["features"])
    export, teacher, student = found
    assert np.array_equal(export, teacher)
    assert not np.array_equal(export, student)


def test_a_teacher_that_is_as_flat_as_the_student_is_a_warning() -> None:
    config = METHODS["dino"](teacher_temperature=0.1)  # type: ignore[call-arg]
    assert len(list(config.warnings(1000, 64))) == 1
    assert list(METHODS["dino"]().warnings(1000, 64)) == []
