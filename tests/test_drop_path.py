"""Drop path: timm's on one process, and on several the draws that one process would make."""

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from cl.config.run import DeviceConfig
from cl.distributed import rank, world_size
from cl.nn.drop_path import GlobalDropPath, has_dropout, with_global_drop_path
from cl.run.start.network import depends_on_processes
from tests.test_ranks import pools

__all__ = ["pools"]  # the fixture

VIEWS = 2
IMAGES = 12  # of the global batch


def network(images: int) -> nn.Sequential:
    made = nn.Sequential(DropPath(0.5), nn.Sequential(DropPath(0.25), DropPath(0.0)))
    with_global_drop_path(made, images)
    return made


def dropped() -> Tensor:
    """What is left of this process's rows of ones [V, B, 3, 2], [V, B]."""
    own = IMAGES // world_size()
    torch.manual_seed(0)
    rows = torch.ones(VIEWS * own, 3, 2, dtype=torch.float64)
    return network(own)(rows).reshape(VIEWS, own, 6)[:, :, 0]


def test_on_one_process_it_is_timms_to_the_bit() -> None:
    torch.manual_seed(0)
    expected = DropPath(0.25)(DropPath(0.5)(torch.ones(VIEWS * IMAGES, 3, 2, dtype=torch.float64)))
    assert torch.equal(dropped(), expected.reshape(VIEWS, IMAGES, 6)[:, :, 0])
    assert 0 < (dropped() == 0).sum() < VIEWS * IMAGES


@pytest.mark.parametrize("size", [2, 3])
def test_on_several_each_image_has_the_draws_that_it_would_have_on_one(pools: Any, size: int) -> None:
    assert torch.equal(torch.cat(pools[size].run(dropped), dim=1), dropped())


def test_evaluation_keeps_everything() -> None:
    rows = torch.randn(5, 2)
    assert network(5).eval()(rows) is rows
    assert isinstance(network(5)[0], GlobalDropPath)
    assert rank() == 0


@pytest.mark.parametrize(
    ("module", "keeps"),
    [(DropPath(0.1), False), (nn.Dropout(0.1), True), (nn.Dropout2d(0.1), True), (nn.Dropout(0), False)],
)
def test_only_dropout_keeps_a_run_on_its_number_of_processes(module: nn.Module, keeps: bool) -> None:
    assert has_dropout(nn.Sequential(module)) == keeps
    said = depends_on_processes(nn.Sequential(module), DeviceConfig())
    assert said == ("dropout draws other numbers in each process" if keeps else "")
