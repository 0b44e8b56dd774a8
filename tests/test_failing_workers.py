"""A worker that cannot deliver ends the run with one line, a loader that hangs can be stopped, and nothing is left."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from cl.data.decoding.decode import BrokenFile
from cl.data.worker_processes import Deliveries, Waiting
from cl.errors import Stopped
from cl.machine.children import lost_worker
from cl.run.start import banner, memory
from tests.conftest import ROOT, TINY, Run
from tests.pictures import write_classes
from tests.test_stopping import alive

LIMIT = 30  # seconds for what takes two


class Failing(Dataset[Any]):
    """Batches of two, of which the second fails."""

    def __init__(self, fail: Callable[[], Any]) -> None:
        self.fail = fail

    def __getitems__(self, indices: list[int]) -> Any:
        return self.fail() if 2 in indices else torch.tensor(indices)


class Unsendable:
    """Fails in the thread that sends it, as a tensor does that does not fit into shared memory."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def killing(number: int) -> Callable[[], Any]:
    return lambda: os.kill(os.getpid(), number)


SHM = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
FAILURES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "shared memory is full": (lambda: Unsendable(SHM), ["No space left on device", "--shm-size", "--num_workers 0"]),
    "a batch that cannot be pickled": (lambda: lambda: None, ["pickle"]),
    "too many open files, sending": (
        lambda: Unsendable(OSError(errno.EMFILE, "Too many open files")),
        ["Too many open files", "ulimit -n"],
    ),
    "no temporary folder": (lambda: Unsendable(OSError("AF_UNIX path too long")), ["AF_UNIX", "TMPDIR"]),
    "no memory, reading": (raising(MemoryError()), ["MemoryError", "reduce --num_workers or --batch_size"]),
    "a bug": (raising(ValueError("two\nlines")), ["ValueError: two lines", "test_failing_workers.py, line"]),
    "an error without a text": (raising(KeyError()), ["KeyError", "test_failing_workers.py, line"]),
    "out of memory": (killing(signal.SIGKILL), ["DataLoader worker", "Killed", "reduce --num_workers"]),
    "a bus error": (killing(signal.SIGBUS), ["DataLoader worker", "Bus error", "--shm-size"]),
    "a crash": (killing(signal.SIGSEGV), ["DataLoader worker", "Segmentation fault"]),
    "an exit": (lambda: os._exit(errno.EMFILE), ["DataLoader worker", "Too many open files", "ulimit -n"]),
    "a broken file": (raising(BrokenFile("a.jpg: bad")), ["a.jpg: bad; it was a valid image when the run began"]),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_that_cannot_deliver_ends_the_run_with_the_reason(
    case: str, persistent: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    fail, expected = FAILURES[case]
    start = time.monotonic()
    batches = Deliveries(Failing(fail), [[0, 1], [2, 3], [4, 5]], workers=2, persistent=persistent)
    with pytest.raises((Stopped, RuntimeError)) as end:
        list(batches)
    line = str(end.value) if isinstance(end.value, Stopped) else lost_worker(str(end.value))
    assert "\n" not in line
    assert all(text in line for text in expected), line
    assert time.monotonic() - start < LIMIT
    assert capfd.readouterr().err == ""
    assert Waiting.since is None


def test_without_workers_an_error_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="a bug"):
        list(Deliveries(Failing(raising(ValueError("a bug"))), [[0, 1], [2, 3]], workers=0))


HOLDS_WORKERS = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from cl.data.worker_processes import Deliveries
class Blocks:
    def __getitems__(self, indices):
        with open("pids", "a") as file:
            file.write(f"{{os.getpid()}} ")
        if indices[0] % 2:
            time.sleep(3600)
        return bytes(10_000_000)  # more than a pipe holds
print(list(Deliveries(Blocks(), [[0], [1], [2], [3]], workers=2)))
"""


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLDS_WORKERS], cwd=tmp_path)
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 60
    while not pids.exists() or len(set(pids.read_text().split())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(alive(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# The images of the rank that the file `stuck` names do not come.
STICKS = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
import torch
import main_contrastive
from cl import cli
from cl.data.executors.torchvision import TorchvisionExecutor
from cl.run.train import stop_signals

stop_signals.LOADER_PATIENCE = 1.0
torch.set_num_threads(1)
read = TorchvisionExecutor.read
def sticking(self, keys):
    while os.path.exists("stuck") and os.environ.get("RANK", "0") == open("stuck").read():
        time.sleep(0.1)
    return read(self, keys)
TorchvisionExecutor.read = sticking
cli.run(main_contrastive.main)
"""
STUCK_FLAGS = ["custom", "resnet18", "--train_dir", "train", "--crop_size", "16", "--loader", "torchvision"]
STUCK_FLAGS += [
    "--accelerator",
    "cpu",
    "--epochs",
    "2",
    "--checkpoint_every_n_steps",
    "2",
    "--knn_every",
    "99",
    "--seed",
    "3",
]
STUCK_FLAGS += ["--width", "4", "--proj_hidden_dim", "16", "--batch_size", "4"]


def start(folder: Path, *flags: str) -> "subprocess.Popen[str]":
    (folder / "sticks.py").write_text(STICKS)
    command = [sys.executable, "sticks.py", *STUCK_FLAGS, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop_when_stuck(folder: Path, number: int, rank: str, *flags: str) -> tuple[int, str]:
    """Let the images of a rank stop coming once a checkpoint exists, send a signal: exit code and stderr."""
    run = start(folder, *flags)
    deadline = time.monotonic() + 100
    while not (folder / "trained_models/run/last.ckpt").exists():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (folder / "stuck").write_text(rank)
    time.sleep(3)
    run.send_signal(number)
    sent = time.monotonic()
    _, err = run.communicate(timeout=60)
    assert time.monotonic() - sent < LIMIT
    (folder / "stuck").unlink()
    return run.returncode, err


@pytest.mark.parametrize("workers", ["2", pytest.param("0", marks=pytest.mark.slow)])
def test_a_signal_is_answered_while_the_loader_waits_and_the_run_resumes_bit_for_bit(
    workers: str, tmp_path: Path
) -> None:
    write_classes(tmp_path / "train", {"a": 60, "b": 60})
    flags = ["--num_workers", workers, "--resume_training_from", "auto", "--run_id"]
    code, err = stop_when_stuck(tmp_path, signal.SIGTERM, "0", *flags, "run")
    assert (code, err.count("\n")) == (75, 1), err
    step = int(torch.load(tmp_path / "trained_models/run/last.ckpt", weights_only=True)["global_step"])
    assert f"SIGTERM after step {step}, saved; resume with" in err
    assert "no images came for 1 s" in err
    for run_id in ("run", "whole"):
        run = start(tmp_path, *flags, run_id)
        _, err = run.communicate(timeout=100)
        assert (run.returncode, err) == (0, "")
    states = [torch.load(tmp_path / f"trained_models/{name}/last.ckpt", weights_only=True) for name in ("run", "whole")]
    assert states[0]["global_step"] == states[1]["global_step"] == 60
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(tensor, states[1]["state_dict"][name]), name
    assert str(states[0]["optimizer_states"]) == str(states[1]["optimizer_states"])
    assert str(states[0]["loops"]) == str(states[1]["loops"])
    tables = [(tmp_path / f"trained_models/{name}/metrics.csv").read_bytes() for name in ("run", "whole")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_signal_is_answered_while_one_rank_waits_for_images_and_the_other_for_it(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 60, "b": 60})
    flags = ["--num_workers", "1", "--devices", "2", "--run_id", "run"]
    code, err = stop_when_stuck(tmp_path, signal.SIGTERM, "1", *flags)
    assert code == 75, err
    assert "not saved since the last checkpoint; resume with --resume_training_from trained_models/run" in err
    assert "Traceback" not in err


def test_small_shared_memory_is_a_warning_before_the_first_step_and_a_line_after_it(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "$@"'
    machine = ["unshare", "-m", "bash", "-c", mount, "_"]
    try:
        probe = subprocess.run([*machine, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if probe.returncode:
        pytest.skip(f"not permitted here: {probe.stderr.strip()}")
    flags = ["digits", "resnet18", *TINY, "--loader", "torchvision", "--num_workers", "1", "--accelerator", "cpu"]
    command = [*machine, sys.executable, str(ROOT / "main_contrastive.py"), *flags, "--batch_size", "256"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("stopped: a loader worker could not deliver a batch: ")
    assert "--shm-size" in done.stderr
    assert "--num_workers 0" in done.stderr
    assert "take 0.76 MiB, but /dev/shm has 0.25 MiB free" in " ".join(done.stdout.split())


@pytest.mark.parametrize("loader", ["fast", "torchvision", "dali"])
def test_the_banner_compares_the_batches_of_every_loader_with_shared_memory(
    loader: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    write_classes(folder / "train", {"a": 12})
    monkeypatch.setattr(banner, "free_bytes", lambda _: 1)
    flags = [
        "custom",
        "resnet18",
        "--train_dir",
        "train",
        "--crop_size",
        "16",
        "--batch_size",
        "4",
        "--accelerator",
        "cpu",
    ]
    flags += ["--width", "4", "--proj_hidden_dim", "16", "--loader", loader, "--dry_run", "--cache", "none"]
    for workers, warned in (("2", True), ("0", False)):
        monkeypatch.setattr("cl.data.datamodule.load_into_memory", lambda images: images)
        code, out, err = run("main_contrastive.py", *flags, "--num_workers", workers)
        assert (code, err) == (0, "")
        assert ("the batches on their way" in out) == warned
    assert memory.free_bytes(Path("/no/such/folder")) is None
