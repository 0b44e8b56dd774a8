"""N processes compute what one would: losses, gradients, batch norm, metrics. The harness itself is shown to fail."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from cl import distributed
from cl.config.data import DataConfig
from cl.config.methods import METHODS
from cl.data.images import FileSet
from cl.data.sources.index import open_index
from cl.data.sources.listing import list_images
from cl.data.sources.registry import load_on_all_ranks
from cl.errors import UserError
from cl.evaluation.features import gather_in_order
from cl.evaluation.online.epoch_means import EpochMeans
from cl.losses import barlow_twins_loss, nt_xent_loss
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.nn.batch_norm import GlobalBatchNorm
from cl.selfcheck import Outcome, largest_errors, outcome
from tests.pictures import write_classes
from tests.run_ranks import Ranks, RanksFailed

CPU = torch.device("cpu")
IMAGES = 12  # of the global batch
slow = pytest.mark.slow


def two_views(size: int, *marks: Any) -> Any:
    """A case of `size` processes."""
    return pytest.param([], size, id=f"two views-{size}", marks=marks)


def eight_views(size: int, *marks: Any) -> Any:
    return pytest.param(["--multicrop"], size, id=f"eight views-{size}", marks=marks)


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Ranks]]:
    made = {size: Ranks(size, tmp_path_factory.mktemp("ranks")) for size in (2, 3, 4)}
    yield made
    for pool in made.values():
        pool.close()


def agrees(found: list[Outcome], flags: list[str]) -> bool:
    """Every rank has the loss and the gradients of one process with the whole batch."""
    expected = outcome(flags, IMAGES, torch.float64, CPU)
    return all(max(largest_errors(each, expected)) < 1e-10 for each in found)


@pytest.mark.parametrize(("flags", "size"), [two_views(2), two_views(4), eight_views(2), eight_views(4, slow)])
@pytest.mark.parametrize("name", METHODS)
def test_three_steps_have_the_losses_the_gradients_and_the_state_of_one_process(
    pools: dict[int, Ranks], name: str, flags: list[str], size: int
) -> None:
    flags = ["--method", name, *flags]
    assert agrees(pools[size].run(outcome, flags, IMAGES, torch.float64, CPU), flags)


def in_single_precision(flags: list[str]) -> Outcome:
    """In float32, with a smooth function in ReLU's place: an input near 0 may round to another sign, and then a ReLU is
    another network whose gradient is up to 3 % off."""
    kept = nn.ReLU.forward
    nn.ReLU.forward = lambda _, x: nn.functional.softplus(x)  # type: ignore[method-assign]
    try:
        return outcome(flags, 4 * IMAGES, torch.float32, CPU)
    finally:
        nn.ReLU.forward = kept  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("flags", "size"), [two_views(3), two_views(2, slow), eight_views(2, slow), eight_views(3, slow)]
)
@pytest.mark.parametrize("name", METHODS)
def test_so_it_has_in_single_precision(pools: dict[int, Ranks], name: str, flags: list[str], size: int) -> None:
    """To 1e-5 for the loss, the whole gradient and each parameter, where a millionth of the whole gradient is zero."""
    flags = ["--method", name, *flags]
    one = in_single_precision(flags)
    whole = flat(one.gradients).norm()
    for found in pools[size].run(in_single_precision, flags):
        assert (found.losses[0] - one.losses[0]).abs() < 1e-5 * one.losses[0].abs()
        assert (flat(found.gradients) - flat(one.gradients)).norm() < 1e-5 * whole
        for key, gradient in one.gradients.items():
            assert (found.gradients[key] - gradient).norm() < 1e-5 * gradient.norm() + 1e-6 * whole, key


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in gradients.values()])


@pytest.mark.parametrize("dim", [8, 12, 16])
def test_both_forms_of_barlow_twins_are_exact(pools: dict[int, Ranks], dim: int) -> None:
    flags = ["--method", "barlow_twins", "--proj_output_dim", str(dim)]  # a global batch of 12: above, at and below
    assert agrees(pools[2].run(outcome, flags, IMAGES, torch.float64, CPU), flags)


# What follows is planted: each must make the comparison, or the harness, fail.


def drop_gradient(*args: Any) -> Outcome:
    """A gather whose backward keeps this process's own wishes alone."""
    kept = distributed._Gather.backward
    distributed._Gather.backward = staticmethod(  # type: ignore[method-assign]
        lambda ctx, *g: g[0].chunk(distributed.world_size())[distributed.rank()]
    )
    try:
        return outcome(*args)
    finally:
        distributed._Gather.backward = kept  # type: ignore[method-assign]


def keep_statistics_local(*args: Any) -> Outcome:
    return outcome(*args, sync=False)


@pytest.mark.parametrize("planted", [drop_gradient, keep_statistics_local])
def test_a_planted_error_is_found(pools: dict[int, Ranks], planted: Callable[..., Outcome]) -> None:
    flags = ["--method", "simclr"]
    assert not agrees(pools[2].run(planted, flags, IMAGES, torch.float64, CPU), flags)


def hang() -> None:
    if distributed.rank() == 1:
        time.sleep(1000)


def die() -> None:
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.gather(torch.ones(1))


def fail() -> None:
    if distributed.rank() == 1:
        raise ValueError("planted")
    distributed.gather(torch.ones(1))


@pytest.mark.parametrize(
    ("planted", "seconds", "reason"),
    [(hang, 5, "no answer within"), (die, 40, "died|closed by peer"), (fail, 40, "planted|closed by peer")],
)
def test_a_rank_that_hangs_dies_or_raises_fails_the_test(
    tmp_path: Path, planted: Callable[[], None], seconds: float, reason: str
) -> None:
    pool = Ranks(2, tmp_path)
    pool.run(distributed.rank)  # started
    with pytest.raises(RanksFailed, match=reason):
        pool.run(planted, timeout=seconds)
    assert pool.run(distributed.rank) == [0, 1]  # and the next case has a fresh pool
    pool.close()


def gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Value and gradients of the mean over processes of `loss` of this one's rows."""
    size, rank = distributed.world_size(), distributed.rank()
    leaves = [each.clone().requires_grad_() for each in inputs]
    value = loss(*(leaf.chunk(size)[rank] for leaf in leaves))
    found = torch.autograd.grad(value, leaves)
    return distributed.global_mean(value.detach()), *(distributed.sum_over_ranks(each) / size for each in found)


def nt_xent_of_rows(z: Tensor, ids: Tensor, temperature: float, decoupled: bool) -> tuple[Tensor, ...]:
    own = ids.chunk(distributed.world_size())[distributed.rank()]
    return gradients(lambda rows: nt_xent_loss(rows, own, temperature, decoupled), z)


def barlow_twins_of_rows(z1: Tensor, z2: Tensor) -> tuple[Tensor, ...]:
    return gradients(lambda a, b: barlow_twins_loss(a, b, 0.05, 1.0), z1, z2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 3])
def test_losses_do_not_depend_on_how_rows_are_split(pools: dict[int, Ranks], size: int) -> None:
    ids = torch.tensor([0, 1, 1, 2, 0, -5, 1, 2, 9, 9, -4, 0])
    cases: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (nt_xent_of_rows, (random(12, 5), ids, 0.1, decoupled)) for decoupled in (False, True)
    ]
    cases += [(barlow_twins_of_rows, (random(12, dim), random(12, dim, seed=1))) for dim in (4, 12, 30)]
    for function, args in cases:
        expected = function(*args)
        for found in pools[size].run(function, *args):
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def normalised(x: Tensor) -> tuple[Tensor, ...]:
    """Output of this process's rows, gathered, the gradient of a function of it, and the running statistics."""
    size, rank = distributed.world_size(), distributed.rank()
    norm = (GlobalBatchNorm if size > 1 else nn.BatchNorm2d)(3).double()
    torch.nn.init.constant_(norm.weight, 2.0)
    leaf = x.clone().requires_grad_()
    out = norm(leaf.chunk(size)[rank])
    (out**3).mean().backward()
    assert leaf.grad is not None
    buffers = [buffer.double() for buffer in norm.buffers()]
    return distributed.gather(out.detach()), distributed.sum_over_ranks(leaf.grad) / size, *buffers


@pytest.mark.parametrize("size", [2, 3])
def test_global_batch_norm_is_batch_norm_of_the_global_batch(pools: dict[int, Ranks], size: int) -> None:
    x = random(6, 3, 4, 4)
    expected = normalised(x)
    for found in pools[size].run(normalised, x):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def labelled_loss(logits: Tensor, target: Tensor) -> Tensor:
    size, rank = distributed.world_size(), distributed.rank()
    return distributed.global_mean(labelled_cross_entropy(logits.chunk(size)[rank], target.chunk(size)[rank])[0])


def test_the_online_heads_loss_is_that_of_all_labels_wherever_they_are(pools: dict[int, Ranks]) -> None:
    target = torch.tensor([-1, -1, -1, -1, 2, -1, 0, 1, 2, 0, 1, 1])
    expected = labelled_loss(random(12, 3), target)
    for found in pools[3].run(labelled_loss, random(12, 3), target):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def uneven_parts() -> tuple[dict[str, float], list[int]]:
    """Means and rows of which each rank has another number, one rank none of a name."""
    rank, means = distributed.rank(), EpochMeans()
    means.add("everywhere", torch.tensor(10.0 * (rank + 1)), rank + 1)
    if rank == 1:
        means.add("once", torch.tensor(3.0), 2)
    index = torch.arange(rank, 7, distributed.world_size())
    (rows,) = gather_in_order(index, index * 10)
    return means.compute(all_processes=True), rows.tolist()


def test_uneven_metrics_and_rows_come_together(pools: dict[int, Ranks]) -> None:
    for means, rows in pools[3].run(uneven_parts):
        assert means == {"everywhere": 10.0, "once": 1.5}
        assert rows == [0, 10, 20, 30, 40, 50, 60]


def shares() -> tuple[Any, ...]:
    """Whom `broadcast_from_rank_zero` and `rank_zero_first` call."""
    rank = distributed.rank()
    return distributed.broadcast_from_rank_zero(lambda: f"from {rank}"), distributed.rank_zero_first(lambda: rank)


def test_rank_0_decides_and_goes_first(pools: dict[int, Ranks]) -> None:
    assert pools[2].run(shares) == [("from 0", 0), ("from 0", 1)]


def refusal_where_rank_1_may_not_read_a_file(folder: str) -> str:
    bad = {"ant/000.jpg": "cannot be read: Permission denied"} if distributed.rank() == 1 else {}
    with (
        patch("cl.data.sources.registry.machine_name", return_value=f"node {distributed.rank()}"),
        patch("cl.data.sources.folders.bad_files", return_value=bad),
        pytest.raises(UserError) as refusal,
    ):
        load_on_all_ranks(DataConfig(dataset="custom", train_dir=folder))
    return str(refusal.value)


def test_a_file_that_one_node_cannot_read_is_refused_on_all(pools: dict[int, Ranks], tmp_path: Path) -> None:
    write_classes(tmp_path / "data", {"ant": 3})
    for message in pools[2].run(refusal_where_rank_1_may_not_read_a_file, str(tmp_path / "data")):
        assert "process 1 reads 2 training and 0 validation images, process 0 " in message


def files_where_rank_0_alone_lists(folder: str, cache: str, keep: bool) -> tuple[list[str], list[int], int]:
    """What each rank has of a folder, and how often it listed."""
    with (
        patch.dict("os.environ", XDG_CACHE_HOME=cache),
        patch("cl.data.sources.folders.list_images", wraps=list_images) as listed,
        patch("cl.data.images.open_index", wraps=open_index if keep else None) as opened,
    ):
        opened.side_effect = None if keep else FileNotFoundError
        train = load_on_all_ranks(DataConfig(dataset="custom", train_dir=folder)).train
    assert isinstance(train, FileSet)
    return [str(train.path(i)) for i in range(len(train))], train.targets.tolist(), listed.call_count


@pytest.mark.parametrize("keep", [True, False])
def test_one_process_of_a_machine_lists_and_the_others_map_its_result(
    keep: bool, pools: dict[int, Ranks], tmp_path: Path
) -> None:
    write_classes(tmp_path / "data", {"ant": 3, "bee": 2})
    (tmp_path / "data/ant/bad.jpg").write_bytes(b"")
    paths = [str(tmp_path / f"data/{name}.jpg") for name in ("ant/000", "ant/001", "ant/002", "bee/000", "bee/001")]
    found = pools[2].run(files_where_rank_0_alone_lists, str(tmp_path / "data"), str(tmp_path / "cache"), keep)
    # Without an index a process lists by itself.
    assert found == [(paths, [0, 0, 0, 1, 1], 1), (paths, [0, 0, 0, 1, 1], 0 if keep else 1)]


def failing_on_one() -> str:
    def compute() -> int:
        if distributed.rank() == 1:
            raise OSError("unreadable")
        return 1

    try:
        distributed.all_or_none(compute)
    except Exception as error:
        return f"{type(error).__name__} {error} {distributed.on_any_rank(False)}"
    return "no failure"


def test_what_fails_on_one_rank_fails_on_all_and_they_stay_together(pools: dict[int, Ranks]) -> None:
    assert pools[2].run(failing_on_one) == ["Stopped  False", "OSError unreadable False"]
