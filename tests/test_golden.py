"""The surface and the numbers are golden: a change is allowed, an unnoticed one is not.

`python -m tests.test_golden` writes them anew; the CHANGELOG says why.
"""

import json
from pathlib import Path

import pytest
import torch

from cl.batch import Batch
from cl.config.flags import as_typed, fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain, config_parts
from cl.data.sampler import RankSlice, TrainSampler
from tests.test_methods import build

GOLDEN = Path(__file__).parent / "golden"
FIXED = {"barlow_twins": ["--lamb", "0.005"], "simsiam": ["--pred_hidden_dim", "128"]}  # whatever the preset has


def golden_losses(name: str) -> list[float]:
    """Ten losses of a tiny net in float64 on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = build(name, "--optimizer", "sgd", "--lr", "0.5", "--scheduler", "none", *FIXED.get(name, [])).double()
        optimizer = module.configure_optimizers()["optimizer"]
        generator, losses = torch.Generator().manual_seed(1), []
        for _ in range(10):
            views = torch.randn(2, 16, 3, 8, 8, dtype=torch.float64, generator=generator)
            loss = module.training_step(Batch(torch.arange(16), (views,), torch.arange(16) % 4), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", METHODS)
def test_ten_losses_are_golden(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert golden_losses(name) == pytest.approx(golden["losses"], rel=1e-6), f"made with torch {golden['torch']}"


def golden_order() -> dict[str, list[int]]:
    """The first images of the second epoch with seed 1, of several numbers of images."""
    orders = {}
    for images in (5, 63, 64, 1437, 1_000_000_000):
        sampler = TrainSampler(images, min(images, 16), seed=1, rank_slice=RankSlice(0, 1))
        sampler.epoch = 1
        orders[str(images)] = [index for _, index in next(iter(sampler))]
    return orders


def flag_table() -> str:
    """Every flag of both programs, with type and default."""
    rows = []
    programs = [(f"main_contrastive --method {name}", config_parts(Pretrain, name)) for name in METHODS]
    for program, parts in [*programs, ("main_linear", config_parts(Linear, None))]:
        for declared in (d for part in parts.values() for d in fields_of(part)):
            spellings = " ".join([declared.spelling, *declared.flag.aliases, *declared.flag.shorthands])
            kind = declared.kind.__name__ + "..." * declared.many
            rows.append(f"{program}: {spellings} {kind} {as_typed(declared.default)}")
    return "\n".join(rows) + "\n"


def test_the_flags_are_golden() -> None:
    assert flag_table() == (GOLDEN / "flags.txt").read_text()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "flags.txt").write_text(flag_table())
    (GOLDEN / "order.json").write_text(json.dumps(golden_order(), indent=2) + "\n")
    for each in METHODS:
        made = {"torch": torch.__version__, "losses": golden_losses(each)}
        (GOLDEN / f"{each}.json").write_text(json.dumps(made, indent=2) + "\n")
