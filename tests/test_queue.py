"""Queues: what they hold, when it changes, and that no row of a step is compared with itself."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.methods.queue import QueueConfig
from cl.config.programs import Pretrain
from cl.errors import UserError
from cl.methods import build_method
from cl.methods.nnclr import nearest_rows
from cl.methods.queue import Queue, random_directions
from cl.optim.schedules import Budget
from cl.selfcheck import IMAGES, largest_errors, outcome
from tests import reference
from tests.conftest import TINY, Run
from tests.kills import same
from tests.test_methods import batch, build, double
from tests.test_ranks import CPU, pools
from tests.test_state import SKIPPED, TAKEN, take_step

__all__ = ["pools"]  # the fixture

PRETRAIN = "main_contrastive.py"
NAMES = [name for name, config in METHODS.items() if issubclass(config, QueueConfig)]
SMALL = ["--queue_size", "20", "--batch_size", "12"]  # no multiple of a batch of 12 or 16
FLAGS = dict.fromkeys(NAMES, SMALL)
FLAGS["swav"] = ["--queue_size", "21", "--batch_size", "12", "--queue_start_epoch", "0"]  # two processes: 11 and 10


def numbers(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)[:, None]


def test_a_queue_holds_the_newest_rows_whatever_its_size() -> None:
    queue = Queue(torch.zeros(5, 1))
    for first, count in ((1, 2), (3, 2), (5, 2), (7, 5)):
        queue.add(numbers(first, count))
        queue.commit(TAKEN)
    assert queue.written == 11
    assert queue.rows.flatten().tolist() == [11, 7, 8, 9, 10]


def test_the_batches_of_a_step_enter_together_and_in_order() -> None:
    queue = Queue(torch.zeros(5, 1))
    queue.add(numbers(1, 2))
    queue.add(numbers(3, 2))
    assert not queue.rows.any()
    queue.commit(TAKEN)
    assert queue.rows.flatten().tolist() == [1, 2, 3, 4, 0]


def test_a_skipped_step_changes_no_bit_of_a_queue_even_if_its_rows_are_not_finite() -> None:
    queue = Queue(random_directions(5, 3, seed=0))
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    queue.add(torch.full((2, 3), torch.nan))
    queue.commit(SKIPPED)
    assert all(same(value, before[name]) for name, value in queue.state_dict().items())
    queue.add(torch.ones(2, 3))
    queue.commit(TAKEN)
    assert queue.written == 2  # those of the skipped step are gone


def test_a_queue_begins_with_unit_rows_that_depend_on_the_seed_alone() -> None:
    rows = random_directions(100, 8, seed=3)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(100))
    assert torch.equal(rows, random_directions(100, 8, seed=3))
    assert not torch.equal(rows, random_directions(100, 8, seed=4))
    configs = [parse(Pretrain, ["digits", "resnet18", *TINY, "--method", "nnclr", "--seed", s]).config for s in "01"]
    zero, one = (build_method(config, 4, Budget(16, 2, 10)).queue.rows for config in configs)
    assert not torch.equal(zero, one)


@pytest.mark.parametrize("name", NAMES)
def test_a_queue_that_wraps_around_is_that_of_one_process(pools: dict, name: str) -> None:
    """36 rows of four processes in a queue of 20, under DDP with its buffer broadcast."""
    flags = ["--method", name, *FLAGS[name]]
    expected = outcome(flags, IMAGES, torch.float64, CPU)
    queues = [key for key in expected.state if key.endswith(".rows")]
    assert all(expected.state[key.replace(".rows", ".written")] == 36 for key in queues)
    found = pools[4].run(outcome, flags, IMAGES, torch.float64, CPU)
    assert all(max(largest_errors(each, expected)) < 1e-10 for each in found)
    assert all(same(found[0].state[key], each.state[key]) for each in found for key in queues)


@pytest.mark.parametrize("name", NAMES)
def test_ddp_neither_sends_nor_overwrites_the_queues(name: str) -> None:
    module = build(name, *FLAGS[name])
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    assert {key for key, _ in module.named_buffers() if "queue" in key} == ignored
    assert "queue.rows" in ignored


@pytest.mark.parametrize("name", NAMES)
def test_a_queue_smaller_than_a_step_is_refused_before_and_after_the_processes_are_known(name: str, run: Run) -> None:
    flags = ["digits", "resnet18", *TINY, "--method", name]
    code, _, err = run(PRETRAIN, *flags, "--accumulate", "2", "--queue_size", "127")
    assert code == 2
    assert err.startswith("error: --queue_size: got 127, expected at least the 128 images of an optimizer step")
    config = parse(Pretrain, [*flags, "--queue_size", "128"]).config
    build_method(config, 4, Budget(128, 2, 10))
    with pytest.raises(UserError, match="got 128, expected at least the 256 images"):
        build_method(config, 4, Budget(256, 2, 10))


@pytest.mark.parametrize(
    ("size", "images", "global_batch", "named"),
    [
        (65536, 50_000, 256, 16384),
        (32768, 50_000, 256, None),
        (65536, 126_689, 256, None),
        (1400, 1437, 128, 512),
        (1309, 1437, 128, None),
        (100, 100, 64, 64),
        (64, 100, 64, None),  # no smaller one is possible
        (65536, 2, 2, 2),
    ],
)
def test_a_queue_that_outlasts_an_epoch_is_warned_of_with_a_size(
    size: int, images: int, global_batch: int, named: int | None
) -> None:
    config = METHODS["nnclr"](queue_size=size)
    found = list(config.warnings(images, global_batch))
    assert len(found) == (named is not None)
    if named is not None:
        assert f"; --queue_size {named} avoids most of this" in found[0]
        assert not list(METHODS["nnclr"](queue_size=named).warnings(images, global_batch))


def test_the_banner_shows_the_warning_and_the_presets_have_none(run: Run, folder: Path) -> None:
    flags = ["digits", "resnet18", *TINY, "--method", "nnclr", "--fast_dev_run"]
    assert "holds an earlier view" not in run(PRETRAIN, *flags)[1]
    assert "--queue_size 1400: with 1437 images the queue often" in run(PRETRAIN, *flags, "--queue_size", "1400")[1]
    for name in NAMES:
        config = parse(Pretrain, ["cifar10", "resnet18", "--method", name]).config.method
        assert not list(config.warnings(50_000, 256))


# NNCLR.


def test_the_nearest_row_is_that_of_the_largest_cosine() -> None:
    z, rows = torch.randn(6, 4), random_directions(9, 4, seed=1)
    assert nearest_rows(z, rows).tolist() == [reference.nearest(each, rows) for each in z]
    assert nearest_rows(100 * rows[[7, 2]], rows).tolist() == [7, 2]


def test_nnclr_looks_up_before_it_appends() -> None:
    """The neighbours of a step are rows of former steps, though its own rows would be nearer."""
    module = build("nnclr", *SMALL).double()
    images = double(batch())
    known = torch.eye(8, dtype=torch.float64).repeat(3, 1)[:20]
    module.queue.rows.copy_(known)
    z = [module.projector(module.backbone(view)) for view in images.views[0]]
    p = [module.predictor(each) for each in z]
    neighbours = [known[[reference.nearest(row, known) for row in each]] for each in z]
    expected = (reference.info_nce(neighbours[0], p[1], 0.2) + reference.info_nce(neighbours[1], p[0], 0.2)) / 2
    torch.testing.assert_close(module.step(images).loss, expected, rtol=1e-10, atol=0)
    assert torch.equal(module.queue.rows, known)
    module.after_step(TAKEN)
    torch.testing.assert_close(module.queue.rows[:16], z[0] / z[0].norm(dim=1, keepdim=True), rtol=1e-10, atol=1e-12)
    assert torch.equal(module.queue.rows[16:], known[16:])
    assert module.queue_labels.rows.tolist() == [*(i % 4 for i in range(16)), -1, -1, -1, -1]


def test_nnclr_counts_neighbours_of_the_same_class_where_both_classes_are_known() -> None:
    module = build("nnclr", *SMALL)
    module.queue_labels.rows.copy_(torch.tensor([0, 1, 2, -1] + 16 * [-1]))
    nearest = torch.tensor([[0, 1, 2, 3, 0], [0, 0, 3, 3, 2]])
    same_class, known = module.of_same_class(nearest, torch.tensor([0, 1, 0, 0, -1]))
    assert (int(same_class), int(known)) == (3, 5)


def test_a_run_of_nnclr_logs_the_share_of_neighbours_of_the_same_class(run: Run, folder: Path) -> None:
    flags = ["digits", "resnet18", *TINY, "--method", "nnclr", "--epochs", "2", "--run_id", "run"]
    assert run(PRETRAIN, *flags)[0] == 0
    header, _, last = (folder / "trained_models/run/metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    assert 0.1 < float(row["neighbours/same_class"]) <= 1
    module = build("nnclr")
    module.training_step(batch(labels=False), 0)
    assert "neighbours/same_class" not in module.means.compute()


# MoCo v2.


def test_the_keys_of_a_step_of_moco_v2_are_not_among_its_negatives() -> None:
    """With known negatives that are orthogonal to all queries, any key among them would raise the loss."""
    module = build("moco_v2", *SMALL).double()
    module.projector = Fixed(8)
    module.teacher.projector = Fixed(8)
    known = torch.zeros(20, 2, 8, dtype=torch.float64)
    known[:, :, 7] = 1.0
    module.queue.rows.copy_(known)
    expected = math.log(math.exp(1 / 0.1) + 20) - 1 / 0.1  # cosine 1 with the key, 0 with all negatives
    for step in range(3):
        loss = module.step(double(batch())).loss
        if step < 2:
            assert loss.item() == pytest.approx(expected, abs=1e-9)
        module.after_step(TAKEN if step == 1 else SKIPPED)
    # The sixteen keys that entered after the second step are the third one's negatives.
    assert loss.item() == pytest.approx(math.log(17 * math.exp(1 / 0.1) + 4) - 1 / 0.1, abs=1e-9)


class Fixed(nn.Module):
    """A projector that gives every image the first direction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        return 0 * features[:, : self.dim] + torch.eye(self.dim, dtype=features.dtype)[0]


def test_each_view_of_moco_v2_has_the_queue_of_the_other_views_keys() -> None:
    module = build("moco_v2", *SMALL).double()
    images = double(batch())
    keys = [module.teacher.projector(module.teacher.backbone(view)) for view in images.views[0]]
    module.training_step(images, 0)
    module.after_step(TAKEN)
    for view, key in enumerate(keys):
        expected = key / key.norm(dim=1, keepdim=True)
        torch.testing.assert_close(module.queue.rows[:16, view], expected, rtol=1e-10, atol=1e-12)


def test_three_full_size_views_have_three_queues() -> None:
    module = build("moco_v2", "--n_crops", "3")
    assert module.queue.rows.shape == (512, 3, 8)
    views = torch.randn(3, 16, 3, 8, 8)
    module.training_step(Batch(torch.arange(16), (views,), torch.full((16,), -1)), 0).backward()
    module.after_step(TAKEN)
    assert module.queue.written == 16


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_batches_see_the_same_queue_and_are_written_once(name: str) -> None:
    whole = double(batch())
    halves = [
        Batch(whole.index[rows], tuple(views[:, rows] for views in whole.views), whole.target[rows])
        for rows in (slice(0, 8), slice(8, 16))
    ]
    module = build(name, *FLAGS[name]).double()
    start = {key: value.clone() for key, value in module.state_dict().items() if "queue" in key}
    module.training_step(halves[0], 0)
    module.training_step(halves[1], 0)
    assert all(same(module.state_dict()[key], value) for key, value in start.items())
    module.after_step(TAKEN)
    written = [value for key, value in module.state_dict().items() if key.endswith(".written")]
    assert [int(value) for value in written] == len(written) * [16]


@pytest.mark.parametrize("name", NAMES)
def test_validation_and_embedding_leave_the_queues_untouched(name: str) -> None:
    module = build(name, *FLAGS[name])
    take_step(module, batch())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.eval()
    with torch.no_grad():
        module.validation_step(batch(), 0)
        module.embed(batch().views[0][0])
    assert all(same(value, before[key]) for key, value in module.state_dict().items())
