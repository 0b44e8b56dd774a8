"""--accumulate and --exact_negatives: the large batch, with the memory of a small one."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.config.run import DeviceConfig
from cl.methods import ContrastiveModule, build_method
from cl.nn.batch_norm import GlobalBatchNorm
from cl.optim.schedules import Budget
from cl.run.start.devices import Devices
from cl.run.start.network import prepare_network
from cl.selfcheck import CASES, IMAGES, TINY, Outcome, largest_errors, outcome
from tests.conftest import TINY as NARROW
from tests.conftest import Run
from tests.test_ranks import CPU, pools

__all__ = ["pools"]  # the fixture

EXACT = ["--accumulate", "3", "--exact_negatives"]
PARTS = 3


def build(*flags: str) -> ContrastiveModule[Any]:
    config = parse(Pretrain, ["custom", "resnet18", *TINY, "--proj_output_dim", "8", *flags]).config
    torch.manual_seed(0)
    return build_method(config, 4, Budget(IMAGES, 1, 1)).double()


def by_parts(module: ContrastiveModule[Any], batch: Batch) -> Tensor:
    """One loss over all parts, with everything kept: the backbone sees a part at a time, the loss all."""
    forward = module._forward_views

    def encode(views: Tensor, network: nn.Module) -> Tensor:
        return torch.cat([forward(part, network) for part in views.chunk(PARTS, dim=1)], dim=1)

    module.encode = encode  # type: ignore[method-assign]
    return module.step(batch).loss


def random_batch(images: int = IMAGES, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, images, 3, size, size, dtype=torch.float64, generator=generator)
    return Batch(torch.arange(images), (views,), torch.full((images,), -1))


def outcome_of(loss: Tensor, module: nn.Module) -> Outcome:
    loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    return Outcome(loss.detach()[None], gradients, {})


@pytest.mark.parametrize("name", [name for name, config in METHODS.items() if config.compares_images])
def test_exact_negatives_have_the_loss_gradients_and_statistics_of_the_large_batch(name: str) -> None:
    module, kept = build("--method", name, *EXACT), build("--method", name)
    batch = random_batch()
    found = outcome_of(module.training_step(batch, 0), module)
    expected = outcome_of(by_parts(kept, batch), kept)
    assert max(largest_errors(found, expected)) < 1e-12
    for (buffer, ours), (_, theirs) in zip(module.named_buffers(), kept.named_buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=buffer)  # remembered once


def halved(norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    """In the place of a batch norm: nothing of other images; its parameters take part, for DDP waits for them."""
    return input * 0.5 + 0 * sum(p.sum() for p in norm.parameters())


def without_batch_norm(flags: list[str]) -> Outcome:
    """A network whose images do not meet before the loss: there the parts are exactly the large batch."""
    kept = GlobalBatchNorm.forward, nn.BatchNorm2d.forward, nn.BatchNorm1d.forward
    GlobalBatchNorm.forward = nn.BatchNorm2d.forward = nn.BatchNorm1d.forward = halved  # type: ignore[assignment]
    try:
        return outcome(flags, IMAGES, torch.float64, CPU)
    finally:
        GlobalBatchNorm.forward, nn.BatchNorm2d.forward, nn.BatchNorm1d.forward = kept  # type: ignore[method-assign]


@pytest.mark.parametrize("name", [name for name, config in METHODS.items() if config.compares_images])
def test_on_one_and_two_processes_it_is_the_large_batch_itself(pools: Any, name: str) -> None:
    expected = without_batch_norm(CASES[name])
    flags = [*CASES[name], *EXACT]
    for found in (without_batch_norm(flags), *pools[2].run(without_batch_norm, flags)):
        assert max(largest_errors(found, expected)) < 1e-10


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under it hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (each for each in tree_leaves(out) if isinstance(each, Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak_of(module: ContrastiveModule[Any], batch: Batch) -> int:
    with Peak() as peak:
        module.training_step(batch, 0).backward()
    return peak.most


def test_its_activations_take_the_memory_of_one_part() -> None:
    parts, images = 8, 64
    whole = random_batch(images, 16)
    part = Batch(whole.index[:8], (whole.views[0][:, :8],), whole.target[:8])
    exact = peak_of(build("--accumulate", str(parts), "--exact_negatives"), whole)
    large, small = peak_of(build(), whole), peak_of(build(), part)
    print(f"peak: exact {exact}, one part {small}, the large batch {large}")
    assert large > 5 * small
    assert exact < 2 * small


@pytest.mark.parametrize("exact", [False, True])
def test_a_run_accumulates(run: Run, folder: Path, exact: bool) -> None:
    flags = ["--accumulate", "3", "--run_id", "made", "--epochs", "1"] + ["--exact_negatives"] * exact
    code, out, err = run("main_contrastive.py", "digits", "resnet18", *NARROW, *flags)
    assert (code, err) == (0, "")
    assert "64 x 1 process x 3 accumulated = 192 images a step" in out
    assert "7 an epoch, 7 in all" in out
    assert f"compared with {2 * (192 if exact else 64) - 2} views of other images" in out
    saved = torch.load(folder / "trained_models/made/last.ckpt", weights_only=True)
    assert saved["global_step"] == 7


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="some CPUs end bfloat16 convolutions with an illegal instruction"
)
def test_bfloat16_leaves_plain_checkpoints(run: Run, folder: Path) -> None:
    flags = ["--precision", "bf16-mixed", "--fast_dev_run", "--run_id", "made", "--batch_size", "4"]
    code, _, err = run("main_contrastive.py", "digits", "resnet18", "--width", "1", "--proj_hidden_dim", "2", *flags)
    assert (code, err) == (0, "")
    saved = torch.load(folder / "trained_models/made/last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in saved.values()} == {torch.float32, torch.int64}


def test_a_compiled_backbone_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled in place, by a compiler that does nothing: torch's own needs a C compiler and a minute."""
    called = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: called.append(function) or function)
    module = build()
    names = list(module.state_dict())
    prepare_network(module, DeviceConfig(compile=True), Devices("cpu", 1), IMAGES)
    module.training_step(random_batch(), 0)
    assert len(called) == 1
    assert list(module.state_dict()) == names


@pytest.mark.parametrize(("width", "last"), [("4", False), ("8", False), ("15", False), ("16", True)])
def test_narrow_networks_are_not_channels_last_on_a_cpu(width: str, last: bool) -> None:
    """There a strided 1x1 convolution of fewer than sixteen channels writes beyond its memory (oneDNN#6035)."""
    module = build("--width", width)
    prepare_network(module, DeviceConfig(), Devices("cpu", 1), IMAGES)
    assert module.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last) == last


def test_float16_on_a_cpu_is_refused(run: Run) -> None:
    code, _, err = run("main_contrastive.py", "digits", "resnet18", "--precision", "16-mixed", "--accelerator", "cpu")
    assert code == 2
    assert err == "error: --precision: got 16-mixed on a CPU, expected 32 or bf16-mixed\n"
