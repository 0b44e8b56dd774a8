"""State without a gradient (a teacher, a queue) changes once per optimizer step, alike on all processes."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cl
from cl.batch import Batch
from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.loader import TrainLoader
from cl.methods import ContrastiveModule, build_method
from cl.methods.teacher import Teacher
from cl.optim.schedules import Budget
from cl.run.start.dry_run import Step
from cl.selfcheck import IMAGES, Outcome, largest_errors, outcome
from tests import toy_queue
from tests.conftest import TINY, Run
from tests.kills import differences, same, state_of
from tests.run_ranks import Ranks
from tests.teachers import method_flags
from tests.test_methods import batch, build, double
from tests.test_resume import AUTO, break_off

PRETRAIN = "main_contrastive.py"
CPU = torch.device("cpu")
TAKEN, SKIPPED = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
SHORT = ["digits", "resnet18", *TINY, "--knn_every", "9"]


def toy_outcome(flags: list[str]) -> Outcome:
    with toy_queue.registered():
        return outcome(["--method", toy_queue.NAME, *flags], IMAGES, torch.float64, CPU)


@pytest.mark.parametrize("size", [2, 4])
def test_a_queue_and_an_evaluated_teacher_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    """Under DDP with its buffer broadcast, after three steps of 12 keys in a queue of 40."""
    expected = toy_outcome([])
    pool = Ranks(size, tmp_path)
    found = pool.run(toy_outcome, [])
    pool.close()
    assert expected.state["queue.position"] == expected.state["queue.filled"] == 36
    assert all(max(largest_errors(each, expected)) < 1e-10 for each in found)
    assert all(same(found[0].state[name], each.state[name]) for each in found for name in expected.state)


def test_ddp_neither_sends_nor_overwrites_a_queue(toy: None) -> None:
    module = build(toy_queue.NAME)
    assert module._ddp_params_and_buffers_to_ignore == ["queue.rows", "queue.position", "queue.filled"]
    assert build("byol")._ddp_params_and_buffers_to_ignore == []


def state_without_gradient(module: ContrastiveModule) -> dict[str, Tensor]:
    parts = ("teacher.", "queue.", "centre.")
    return {name: value.clone() for name, value in module.state_dict().items() if name.startswith(parts)}


def take_step(module: ContrastiveModule, *batches: Batch) -> None:
    """An optimizer step on some micro-batches."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for each in batches:
        (module.training_step(each, 0) / len(batches)).backward()
    optimizer.step()
    module.after_step(TAKEN)
    module.step_index += 1


@pytest.mark.parametrize("name", ["byol", "moco_v3", "dino", toy_queue.NAME])
def test_a_skipped_step_leaves_the_state_untouched(name: str, toy: None) -> None:
    module = build(name)
    take_step(module, batch())
    before = copy.deepcopy(module.teacher), module.queue.rows.clone() if name == toy_queue.NAME else None
    module.training_step(batch(), 0)
    module.after_step(SKIPPED)
    assert all(same(a, b) for a, b in zip(before[0].parameters(), module.teacher.parameters(), strict=True))
    if before[1] is not None:
        assert torch.equal(before[1], module.queue.rows)
        assert module.queue.position == 16


@pytest.mark.parametrize("method", ["byol", "nnclr", "moco_v2", toy_queue.NAME])
def test_a_run_skips_a_step_without_a_trace_in_the_state(
    method: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, toy: None
) -> None:
    flags = [*SHORT, "--method", method, "--batch_size", "256", "--scheduler", "none"]
    flags += ["--teacher_momentum", "0.9", "--teacher_momentum_end", "0.9"] if method in ("byol", "moco_v2") else []
    assert run(PRETRAIN, *flags, "--max_steps", "2", "--run_id", "two")[0] == 0
    spoil_third_batch(monkeypatch)
    code, _, err = run(PRETRAIN, *flags, "--max_steps", "3", "--run_id", "three")
    assert (code, err.count("\n")) == (0, 1)
    two, three = (state_of(folder / f"trained_models/{name}") for name in ("two", "three"))
    names = [name for name in two if name.startswith(("/state_dict/", "/optimizer_states/"))]
    assert any("teacher" in name or "queue" in name for name in names)
    assert all(same(two[name], three[name]) for name in names)


def spoil_third_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    load = TrainLoader.__iter__

    def batches(self: TrainLoader) -> Iterator[Batch]:
        for number, each in enumerate(load(self), start=1):
            if number == 3:
                each.views[0][:, 0] = torch.inf
            yield each

    monkeypatch.setattr(TrainLoader, "__iter__", batches)


@pytest.mark.parametrize("name", ["byol", "moco_v3", "dino", toy_queue.NAME])
def test_validation_and_a_dry_run_leave_the_state_untouched(name: str, toy: None) -> None:
    module = build(name)
    before = state_without_gradient(module)
    module.eval()
    with torch.no_grad():
        module.validation_step(batch(), 0)
        module.embed(batch().views[0][0])
    assert all(same(value, before[key]) for key, value in state_without_gradient(module).items())
    module.train()
    Step(module, "32")(batch())
    learned = {key for key in before if "running" not in key and "tracked" not in key}  # its batch norms saw a batch
    assert all(same(value, before[key]) for key, value in state_without_gradient(module).items() if key in learned)


def test_after_one_step_the_teacher_is_behind_by_exactly_the_momentum() -> None:
    module = build("byol", "--teacher_momentum", "0.75", "--teacher_momentum_end", "0.75").double()
    start = dict(copy.deepcopy(module.teacher).named_parameters())
    take_step(module, double(batch()))
    moved = 0
    for name, teacher in module.teacher.named_parameters():
        student = module.get_parameter(name)
        torch.testing.assert_close(teacher, 0.75 * start[name] + 0.25 * student, rtol=1e-14, atol=1e-15)
        moved += int(not torch.equal(teacher, start[name]))
    assert moved > 10


def test_the_momentum_rises_by_half_a_cosine_to_its_end() -> None:
    module = build("byol", "--teacher_momentum", "0.9", "--teacher_momentum_end", "1")
    assert [module.momentum(step) for step in (0, 5, 10)] == pytest.approx([0.9, 0.95, 1.0])  # of ten steps


def test_a_teacher_is_a_copy_without_gradient_in_no_optimizer_and_without_noise() -> None:
    student = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    teacher = Teacher(student, nn.Linear(4, 2)).train()
    assert teacher.backbone[1].p == 0.0
    assert student[1].p == 0.5
    assert teacher.backbone[2].training
    module = build("byol", "--optimizer", "sgd")
    teachers = list(module.teacher.parameters())
    assert not any(p.requires_grad for p in teachers)
    storages = {p.data_ptr() for name, p in module.named_parameters() if not name.startswith("teacher.")}
    assert not storages & {p.data_ptr() for p in teachers}
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert not {id(p) for p in teachers} & {id(p) for group in groups for p in group["params"]}


def test_a_teacher_starts_from_the_weights_of_init_from(run: Run, folder: Path) -> None:
    assert run(PRETRAIN, *SHORT, "--fast_dev_run", "--run_id", "first")[0] == 0
    flags = ["digits", "resnet18", *TINY, "--method", "byol", "--init_from", "trained_models/first"]
    config = parse(Pretrain, flags).config
    module = build_method(config, 10, Budget(16, 2, 10))
    for name, weight in module.backbone.named_parameters():
        assert torch.equal(weight, module.teacher.backbone.get_parameter(name))


def without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            module.add_module(name, nn.Identity())
        without_batch_norm(child)


@pytest.mark.parametrize("name", ["byol", "moco_v2", "dino", toy_queue.NAME])
def test_two_micro_batches_are_one_batch_without_batch_norm(name: str, toy: None) -> None:
    whole = double(batch())
    halves = [
        Batch(whole.index[rows], tuple(views[:, rows] for views in whole.views), whole.target[rows])
        for rows in (slice(0, 8), slice(8, 16))
    ]
    modules = [build(name).double(), build(name).double()]
    for module in modules:
        without_batch_norm(module)
    for _ in range(3):
        take_step(modules[0], whole)
        take_step(modules[1], *halves)
    for (key, one), (_, two) in zip(modules[0].state_dict().items(), modules[1].state_dict().items(), strict=True):
        if not key.startswith("online_head"):  # labels are counted per batch there
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12, msg=key)


MORE_STATE = {  # SwAV's queue is used from the third step on
    "swav": ["--queue_size", "320", "--queue_start_epoch", "0", "--optimizer", "sgd", "--lars"],
}


@pytest.mark.parametrize("method", ["byol", "lejepa", "moco_v3", "moco_v2", "swav", "dino", toy_queue.NAME])
def test_a_run_that_is_killed_at_odd_steps_resumes_to_the_bit(
    method: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, toy: None
) -> None:
    flags = [*SHORT, *method_flags(method), "--max_steps", "12", "--checkpoint_every_n_steps", "1", "--accumulate", "2"]
    flags += MORE_STATE.get(method, [])
    assert run(PRETRAIN, *flags, "--run_id", "alone")[0] == 0
    for step in (3, 7, 9):
        break_off(run, monkeypatch, step, PRETRAIN, *flags, "--run_id", "killed", *AUTO)
    assert run(PRETRAIN, *flags, "--run_id", "killed", *AUTO)[0] == 0
    assert differences(folder / "trained_models/killed", folder / "trained_models/alone") == []


@pytest.mark.parametrize("method", ["byol", "dino", toy_queue.NAME])
def test_what_is_exported_is_the_network_that_knn_scored(
    method: str, run: Run, folder: Path, toy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student of BYOL, the teacher of DINO and the toy; what a checkpoint holds for linear evaluation and embed."""
    scored = spy_on_knn(monkeypatch)
    assert run(PRETRAIN, *SHORT, "--method", method, "--max_steps", "6", "--run_id", "run")[0] == 0
    (folder / "trained_models/run/summary.json").stat()
    for path in ("trained_models/run/backbone.safetensors", "trained_models/run/last.ckpt"):
        weights = cl.load_backbone(path).state_dict()
        assert weights.keys() == scored.keys()
        assert all(torch.equal(weights[name], scored[name]) for name in weights)
    saved = torch.load(folder / "trained_models/run/last.ckpt", weights_only=True)["state_dict"]
    prefix = "backbone." if method == "byol" else "teacher.backbone."
    assert all(torch.equal(saved[prefix + name], value) for name, value in scored.items())
    code, out, _ = run("main_linear.py", "digits", "resnet18", *EVALUATE)
    assert code == 0
    assert f"{len(scored)} of {len(scored)} keys of resnet18 matched" in " ".join(out.split())
    knn = json.loads((folder / "trained_models/linear/summary.json").read_text())["knn_k200_t0.1/val_top1"]
    assert knn == json.loads((folder / "trained_models/run/summary.json").read_text())["knn/val_top1"]


EVALUATE = ["--pretrained_feature_extractor", "trained_models/run", "--epochs", "1", "--run_id", "linear"]


def spy_on_knn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Fills with the weights of the network whose features kNN has compared last."""
    from cl.evaluation.online import knn

    weights: dict[str, Tensor] = {}
    extract: Callable[..., object] = knn.extract_features

    def spied(network: ContrastiveModule, *args: object) -> object:
        weights.update({name: value.clone() for name, value in network.evaluated.state_dict().items()})
        return extract(network, *args)

    monkeypatch.setattr(knn, "extract_features", spied)
    return weights


def test_gradients_of_a_frozen_group_are_dropped_until_its_step() -> None:
    from cl.optim.gradients import freeze_gradients
    from cl.optim.groups import Group, torch_groups

    frozen, free = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [Group([frozen], 0.1, 0.5, frozen_steps=2), Group([free], 0.1, 0.5)]
    optimizer = torch.optim.AdamW(torch_groups(groups))
    for step in range(3):
        (frozen.sum() + free.sum()).backward()
        freeze_gradients(optimizer, step)
        optimizer.step()
        optimizer.zero_grad()
        if step < 2:
            assert torch.equal(frozen, torch.ones(2))  # no decay either
            assert frozen not in optimizer.state
    assert not torch.equal(frozen, torch.ones(2))
    assert optimizer.state[frozen]["step"] == 1


def test_clipping_bounds_the_global_norm_without_the_online_head() -> None:
    module = build("simclr", "--clip_grad", "0.5")
    module.online_head.weight.data.mul_(1000)
    module.training_step(batch(), 0).backward()
    head = module.online_head.weight.grad.clone()
    optimizer = module.configure_optimizers()["optimizer"]
    module.prepare_gradients(optimizer)
    learned = [p.grad for name, p in module.named_parameters() if p.grad is not None and "online" not in name]
    assert torch.stack([g.norm() for g in learned]).norm() == pytest.approx(0.5, rel=1e-4)
    assert torch.equal(module.online_head.weight.grad, head)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_biases_and_norms_can_be_spared_the_weight_decay(optimizer: str) -> None:
    module = build("simclr", "--optimizer", optimizer, "--weight_decay", "0.1", "--no_decay_biases_and_norms")
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert {(p.ndim > 1, group["weight_decay"]) for group in groups[:-1] for p in group["params"]} == {
        (True, 0.1),
        (False, 0.0),
    }


def test_a_dry_run_says_how_large_the_state_is(run: Run, folder: Path, toy: None) -> None:
    code, out, _ = run(PRETRAIN, *SHORT, "--method", toy_queue.NAME, "--dry_run")
    assert code == 0
    assert "state               teacher " in out
    assert ", queue " in out
