"""Networks as CUDA graphs, without a GPU: the same numbers from a capture that never forgives a graph's mistakes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cl.batch import Batch
from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.data.sampler import RankSlice
from cl.data.settings import pretrain_settings
from cl.distributed import rank
from cl.errors import UserError
from cl.methods import ContrastiveModule
from cl.methods.rehearsal import captured, networks_of
from cl.nn import cuda_graphs
from cl.nn.replays import Call, CannotCapture, CaptureFailed, Replays, record
from cl.run.start.devices import Devices, why_no_graphs
from cl.run.start.network import replay_networks
from cl.run.start.processes import join_processes
from cl.selfcheck import _Step
from tests import fixed_buffers, toy_queue
from tests.conftest import TINY, Run
from tests.fixed_buffers import FixedBuffers
from tests.kills import differences
from tests.test_methods import build
from tests.test_ranks import pools
from tests.test_resume import break_off

__all__ = ["pools"]  # the fixture

FLAGS = ["digits", "resnet18", *TINY, "--max_steps", "9", "--knn_every", "9"]
STEPS = 3


def random_batch(step: int, small: int = 0, images: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(step)
    shapes = [(2, images, 3, 8, 8), (small, images, 3, 6, 6)]
    views = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes if shape[0])
    return Batch(torch.arange(images), views, torch.arange(images) % 4)


def made(name: str, graphs: bool, small: int = 0, accumulate: int = 1) -> ContrastiveModule[Any]:
    module = build(name, "--lr", "0.05").double()
    if graphs:
        module.replays = captured(module, random_batch(99, small), fixed_buffers.capture, None, accumulate > 1)
    return module


def trained(module: ContrastiveModule[Any], small: int = 0, accumulate: int = 1) -> dict[str, Tensor]:
    """Losses and the state after three optimizer steps."""
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(accumulate):
            loss = module.training_step(random_batch(step * accumulate + part, small), 0)
            (loss / accumulate).backward()
            module.on_after_backward()
            losses.append(loss.detach())
        module.prepare_gradients(optimizer)
        optimizer.step()
        module.after_step(torch.ones((), dtype=torch.float64))
        module.step_index += 1
    return {"losses": torch.stack(losses), **module.state_dict()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(("small", "accumulate"), [(0, 1), (2, 1), (0, 2)], ids=["plain", "multicrop", "accumulated"])
@pytest.mark.parametrize("name", METHODS)
def test_replayed_networks_train_to_the_same_bits(name: str, small: int, accumulate: int) -> None:
    module = made(name, True, small, accumulate)
    assert_same(trained(module, small, accumulate), trained(made(name, False), small, accumulate))
    counts = {call.replays for call in slots(module)}
    assert counts == {STEPS * accumulate}  # each call once in each step


def with_ddp(name: str, graphs: bool) -> dict[str, Tensor]:
    """Losses and state after three steps of a process under DDP, with a batch norm of its own."""
    module = made(name, graphs)
    wrapped = DistributedDataParallel(_Step(module))  # after the capture, as in a run
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for step in range(STEPS):
        loss = wrapped(random_batch(STEPS * rank() + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.after_step(torch.ones((), dtype=torch.float64))
        module.step_index += 1
        losses.append(loss.detach())
    assert {call.replays for call in slots(module)} == ({STEPS} if graphs else set())
    return {"losses": torch.stack(losses), **module.state_dict()}


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_processes_under_ddp_replay_to_the_same_bits(pools: Any, name: str) -> None:
    for found, expected in zip(pools[2].run(with_ddp, name, True), pools[2].run(with_ddp, name, False), strict=True):
        assert_same(found, expected)


def slots(module: ContrastiveModule[Any]) -> list[FixedBuffers]:
    return [replay for replay in module.replays._replays if isinstance(replay, FixedBuffers)]


@pytest.mark.parametrize("name", METHODS)
def test_all_calls_of_a_step_are_captured_and_nothing_is_left_by_it(name: str) -> None:
    module, untouched = made(name, True), made(name, False)
    assert_same(module.state_dict(), untouched.state_dict())
    networks = dict(networks_of(module))
    called = [call.network for call in module.replays.calls]
    assert set(called) == set(networks)  # backbone, projector, predictor; those of a teacher
    assert called.count("projector") == (1 if module.views_together else 2)
    assert "online_head" not in networks


def test_a_capture_draws_nothing_from_the_runs_generators() -> None:
    module = made("simclr", False)
    state = torch.get_rng_state()
    captured(module, random_batch(0), fixed_buffers.capture, None, copies=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teachers_calls_have_no_gradient() -> None:
    module = made("byol", True)
    trains = {call.network: call.trained for call in module.replays.calls}
    assert not any(trains[name] for name in trains if name.startswith("teacher."))
    assert all(trains[name] for name in trains if not name.startswith("teacher."))


def test_other_shapes_and_evaluation_run_as_without_graphs() -> None:
    module, eager = made("byol", True), made("byol", False)
    for batch in (random_batch(1, images=10), random_batch(2)):
        assert torch.equal(module.training_step(batch, 0), eager.training_step(batch, 0))
    assert {call.replays for call in slots(module)} == {1}
    module.eval()
    eager.eval()
    with torch.no_grad():
        assert torch.equal(module.embed(random_batch(3).views[0][0]), eager.embed(random_batch(3).views[0][0]))
    assert {call.replays for call in slots(module)} == {1}


def test_accumulated_gradients_would_be_overwritten_if_they_were_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replays, "own_gradients", lambda *_: None)
    found = trained(made("simclr", True, accumulate=2), accumulate=2)
    assert not found["backbone.conv1.weight"].isfinite().all()


def test_keys_for_a_queue_outlive_their_batch(toy: None) -> None:
    """The toy keeps the keys of all accumulated batches until the step is done."""
    assert_same(
        trained(made(toy_queue.NAME, True, accumulate=2), accumulate=2),
        trained(made(toy_queue.NAME, False), accumulate=2),
    )


def test_the_stand_in_sees_a_held_output_another_order_and_moved_weights() -> None:
    net = nn.Linear(2, 2)
    calls = [Call("net", torch.zeros(3, 2), True, True)] * 2
    first, second = fixed_buffers.capture({"net": net}, calls)
    held = first(torch.ones(3, 2))
    later = second(torch.ones(3, 2))
    with pytest.raises(AssertionError, match="out of order"):
        [held.sum().backward(), later.sum().backward()]
    kept = held.detach()
    first(torch.ones(3, 2))
    assert kept.isnan().all()
    with pytest.raises(AssertionError, match=r"captured for \[3, 2\], called with \[4, 2\]"):
        first(torch.ones(4, 2))
    net.double()
    with pytest.raises(AssertionError, match="has moved"):
        first(torch.ones(3, 2))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[FixedBuffers]:
    """Runs capture their networks; the calls that they captured."""
    found: list[FixedBuffers] = []

    def capture(*args: Any) -> Any:
        replays = fixed_buffers.capture(*args)
        found.extend(replays)  # type: ignore[arg-type]
        return replays

    monkeypatch.setattr("cl.run.start.network.capture_on", lambda devices: capture)
    return found


RECIPES = {
    "accumulated": ["--accumulate", "2", "--precision", "32"],
    "multicrop": [
        "--method",
        "byol",
        "--multicrop",
        "--small_crop_size",
        "4",
        "--n_small_crops",
        "2",
        "--gaussian_prob",
        "0",
    ],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_leaves_the_same_weights_and_metrics(
    recipe: str, run: Run, folder: Path, stand_in: list[FixedBuffers]
) -> None:
    for graphs in ("auto", "off"):
        flags = [*FLAGS, *RECIPES[recipe], "--graphs", graphs, "--run_id", graphs]
        code, out, err = run("main_contrastive.py", *flags)
        assert (code, err) == (0, "")
        assert ("calls of networks a step are replayed; captured in 0 s" in out) == (graphs == "auto")
    assert differences(folder / "trained_models/auto", folder / "trained_models/off") == []
    assert all(call.replays > 4 for call in stand_in)


def test_a_resumed_run_replays_to_the_same_bits(
    run: Run, folder: Path, stand_in: list[FixedBuffers], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["main_contrastive.py", *FLAGS, "--method", "byol", "--checkpoint_every_n_steps", "2"]
    assert run(*flags, "--run_id", "whole")[0] == 0
    resumable = [*flags, "--run_id", "parts", "--resume_training_from", "auto"]
    break_off(run, monkeypatch, 5, *resumable)
    code, out, err = run(*resumable)
    assert (code, err) == (0, "")
    assert "after 4 of 9 steps" in out
    assert differences(folder / "trained_models/parts", folder / "trained_models/whole") == []


class Graph:
    """A CUDA graph that does nothing when it is replayed: its memory keeps what the capture has left there."""

    replayed = 0
    capturing = False
    events: ClassVar[list[str]] = []

    def replay(self) -> None:
        Graph.replayed += 1

    @staticmethod
    @contextmanager
    def capture(*_: Any, **__: Any) -> Iterator[None]:
        Graph.capturing = True
        yield
        Graph.capturing = False


@pytest.fixture
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough of it for torch's own make_graphed_callables to run on a CPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for module in (torch.cuda, torch.cuda.graphs):
        for name, value in {
            "CUDAGraph": Graph,
            "graph": Graph.capture,
            "graph_pool_handle": lambda: (0, 1),
            "is_current_stream_capturing": lambda: Graph.capturing,
        }.items():
            monkeypatch.setattr(module, name, value)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: Graph.events.append(f"on {device}") or nullcontext())
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: Graph.events.append("new workspaces"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "empty_like", torch.ones_like)  # the gradient of the output, which a replay would copy
    monkeypatch.setattr(Graph, "replayed", 0)
    monkeypatch.setattr(Graph, "events", [])


def test_the_capture_of_a_gpu_gives_outputs_and_gradients(pretended_cuda: None) -> None:
    net, teacher = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten()), nn.Linear(3, 4).requires_grad_(False)
    examples = [torch.randn(2, 3).requires_grad_(i == 0) for i in range(3)]
    calls = [Call("net", examples[0], True, True), Call("teacher", examples[2], False, False)]
    calls.insert(1, Call("net", examples[1], True, True))
    replays = cuda_graphs.capture({"net": net, "teacher": teacher}, calls)
    images = [example.detach().clone().requires_grad_(example.requires_grad) for example in examples]
    outputs = [replay(x) for replay, x in zip(replays, images, strict=True)]
    for output, network, x in zip(outputs, (net, net, teacher), images, strict=True):
        assert torch.equal(output, network(x))
    (outputs[0] + outputs[1]).sum().backward()
    found = [p.grad for p in (images[0], *net.parameters())]
    expected = torch.autograd.grad(sum(net(x).sum() for x in images[:2]), (images[0], *net.parameters()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert not outputs[2].requires_grad
    assert Graph.replayed == 5  # three forward, two backward


def test_a_captured_output_keeps_no_graph_of_autograd(pretended_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep each parameter's node on the stream of the capture."""
    made_calls: list[Any] = []
    original = torch.cuda.make_graphed_callables

    def noted(callables: Any, *args: Any, **options: Any) -> Any:
        made_calls.extend(callables)
        return original(callables, *args, **options)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", noted)
    cuda_graphs.capture({"net": nn.Linear(3, 4)}, [Call("net", torch.randn(2, 3), True, True)])
    assert [call.output.grad_fn for call in made_calls] == [None]


class NotedCasts(torch.autograd.Function):
    """Notes what autocast is in its forward and backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Graph.events.append(f"forward in {torch.get_autocast_dtype('cpu')}: {torch.is_autocast_enabled('cpu')}")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Graph.events.append(f"backward under autocast: {torch.is_autocast_enabled('cpu')}")
        return gradient


class Casting(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = NotedCasts.apply(super().forward(x))
        return out


def test_a_backward_pass_is_captured_as_it_runs_in_a_step_without_autocast(pretended_cuda: None) -> None:
    """Under autocast it would cast once more: what a forward pass multiplied in float32, it would in half precision."""
    calls = [Call("net", torch.randn(2, 3), True, True)]
    with torch.autocast("cpu", torch.float16, cache_enabled=False):
        (replay,) = cuda_graphs.capture({"net": Casting(3, 4)}, calls)
    passes = {event for event in Graph.events if "autocast" in event or "forward" in event}
    assert passes == {"forward in torch.float16: True", "backward under autocast: False"}
    assert replay(torch.randn(2, 3)).dtype == torch.float16


def test_each_captured_forward_pass_begins_with_workspaces_of_its_own(pretended_cuda: None) -> None:
    """Lightning frees those of the warm-up when fitting starts; a replay would still write there."""
    calls = [Call("net", torch.randn(2, 3), True, True)] * 2 + [Call("net", torch.randn(2, 3), False, False)]
    cuda_graphs.capture({"net": Casting(3, 4)}, calls)
    events = [event.split()[0] for event in Graph.events]
    warm_up = ["forward", "backward"] * cuda_graphs.WARM_UP * 2
    trained = ["new", "forward"] * 2 + ["backward"] * 2
    teacher = ["forward"] * cuda_graphs.WARM_UP + ["new", "forward"]
    assert events == ["on", *warm_up, *trained, *teacher]


@pytest.mark.parametrize("number", [0, 1])
def test_the_gpu_of_a_single_process_is_the_current_one(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    config = parse(Pretrain, ["digits", "resnet18", "--gpus", str(number)]).config
    assert join_processes(config, Devices("gpu", [number])) == RankSlice(0, 1)
    assert chosen == [number]


def test_a_capture_runs_on_the_device_of_its_network(pretended_cuda: None) -> None:
    """Else with --gpus 1 the streams would be those of GPU 0, and nothing of GPU 1 would be captured."""
    cuda_graphs.capture({"net": nn.Linear(3, 4)}, [Call("net", torch.randn(2, 3), True, True)])
    assert Graph.events[0] == "on cpu"


def test_deterministic_kernels_are_chosen_before_the_capture(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    found = []

    def capture(*args: Any) -> Any:
        found.append((torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"]))
        return fixed_buffers.capture(*args)

    monkeypatch.setattr("cl.run.start.network.capture_on", lambda devices: capture)
    try:
        assert run("main_contrastive.py", *FLAGS, "--fast_dev_run", "--deterministic")[0] == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == [(True, ":4096:8")]


def test_a_network_that_waits_for_the_gpu_runs_without_graphs(
    run: Run, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def debug(mode: str) -> None:
        if mode == "error":  # the first call
            warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=2)

    def waiting(network: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("called a synchronizing CUDA operation")

    net = nn.Linear(2, 2)
    monkeypatch.setattr(nn.Linear, "forward", waiting)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", debug)
    with pytest.raises(CannotCapture, match="the backbone waits for the GPU in its forward pass"):
        record({"backbone": net}, lambda: net(torch.zeros(1, 2)))
    assert net._compiled_call_impl is None
    assert not recwarn.list


def test_a_capture_says_in_one_line_what_cuda_refused(pretended_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refusing)
    with pytest.raises(CaptureFailed, match=r"^CUDA error: operation not permitted when stream is capturing$"):
        cuda_graphs.capture({"net": nn.Linear(3, 4)}, [Call("net", torch.randn(2, 3), True, True)])


@pytest.mark.parametrize("graphs", ["auto", "on"])
def test_a_capture_that_fails_is_a_row_of_the_banner_or_a_refusal(graphs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(failure: Exception) -> Any:
        def capture(*_: Any) -> Any:
            raise failure

        monkeypatch.setattr("cl.run.start.network.capture_on", lambda devices: capture)
        method = build("byol", "--graphs", graphs)
        settings = pretrain_settings(method.config, RankSlice(0, 1), torch.device("cpu"))
        return replay_networks(method, method.config, Devices("cpu", 1), settings)

    with pytest.raises(UserError, match=f"--graphs: got {graphs}, but the captured networks do not fit"):
        failing(torch.OutOfMemoryError())
    with pytest.raises(UserError, match=f"--graphs: got {graphs}, but the networks cannot be captured, expected off"):
        failing(CaptureFailed("it waits"))
    if graphs == "auto":
        assert failing(CannotCapture("it waits")) == {"graphs": "off: it waits"}
    else:
        with pytest.raises(UserError, match="--graphs: got on, expected auto or off: it waits"):
            failing(CannotCapture("it waits"))


@pytest.mark.parametrize(
    ("flags", "processes", "reason"),
    [
        ([], 1, ""),
        (["--deterministic"], 1, ""),
        (["--accumulate", "2"], 1, ""),
        (["--accumulate", "2", "--exact_negatives"], 1, "--exact_negatives"),
        (["--exact_negatives"], 1, ""),
        ([], 2, "batch norm waits for the other processes"),
        (["--no_sync_batchnorm"], 2, ""),
    ],
)
def test_the_reason_to_do_without_graphs_is_said(flags: list[str], processes: int, reason: str) -> None:
    config = parse(Pretrain, ["digits", "resnet18", *flags]).config
    found = why_no_graphs(config, Devices("gpu", processes))
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_compiled_backbone_is_replayed_as_it_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def compiled(call: Any) -> Any:
        return lambda *args: called.append(1) or call(*args)

    monkeypatch.setattr(torch, "compile", compiled)
    module = build("byol", "--lr", "0.05").double()
    module.backbone.compile()
    module.replays = captured(module, random_batch(99), fixed_buffers.capture, None, copies=False)
    assert_same(trained(module), trained(made("byol", False)))
    assert len(called) == 2 * STEPS
