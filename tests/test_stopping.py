"""Signals, dead processes and broken files: a run ends as documented, within a minute."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cl import cli
from cl.methods import ContrastiveModule
from cl.run.start.processes import wait_for
from cl.run.start.signal_forwarding import STOP_SIGNALS
from tests.conftest import ROOT, TINY, Run
from tests.kills import write_images
from tests.programs import Command, Program

DIGITS = ["digits", "resnet18"]
FILES = ["custom", "resnet18", "--train_dir", "train", "--crop_size", "16", "--loader", "fast"]
FLAGS = ["--width", "4", "--proj_hidden_dim", "16", "--knn_every", "99"]
FLAGS += ["--resume_training_from", "auto", "--run_id", "run", "--accelerator", "cpu"]
END_TIMEOUT = 60  # seconds


@contextmanager
def started(
    folder: Path, *flags: str, images: Sequence[str] = DIGITS, **environment: str
) -> Iterator[Program | Command]:
    """A run that has written a checkpoint; with several processes, it is started as a command."""
    launch = Command if "--devices" in flags else Program
    arguments = [*images, *FLAGS, "--epochs", "300", *flags]
    run = launch(folder, "main_contrastive.py", *arguments, environment=environment)
    try:
        while not (run.output.has("  1/300  loss") and (folder / "trained_models/run/last.ckpt").exists()):
            assert run.running, run.output.done(1)
            time.sleep(0.02)
        yield run
    finally:
        run.kill()


def children_of(run: Program | Command) -> list[int]:
    """The process ids of a launcher's ranks, in order, or of a run's workers."""
    return [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]


def wait_for_end(run: Program | Command) -> tuple[int, str]:
    """Exit code and stderr, within a minute."""
    done = run.wait(END_TIMEOUT)
    return done.returncode, done.stderr


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "trained_models/run/last.ckpt", weights_only=True)["global_step"])


@pytest.mark.parametrize(
    ("number", "expected_code", "name"),
    [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_one_signal_saves_a_checkpoint_and_prints_how_to_resume(
    number: int, expected_code: int, name: str, tmp_path: Path
) -> None:
    with started(tmp_path, "--batch_size", "64", "--num_workers", "2", "--loader", "torchvision") as run:
        os.killpg(run.pid, number)  # as a terminal does: the workers receive it, too
        exit_code, err = wait_for_end(run)
    step = saved_step(tmp_path)
    resume = "resume with --resume_training_from trained_models/run"
    assert (exit_code, err) == (expected_code, f"stopped: {name} after step {step}, saved; {resume}\n")
    assert step >= 22


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers, which a stopped run leaves in place."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_while_lightning_sets_up_stops_the_run_before_its_first_step(
    run: Run, folder: Path, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setup(method: Any, stage: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ContrastiveModule, "setup", setup)
    code, _, err = run("main_contrastive.py", *DIGITS, *TINY, "--epochs", "1")
    assert (code, err) == (130, "stopped: Ctrl-C after step 0\n")


@pytest.mark.parametrize(("rank", "message"), [("0", "stopped: Ctrl-C\n"), ("1", "")])
def test_ctrl_c_before_training_prints_one_line_on_rank_0_only(
    rank: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: Sequence[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as end:
        cli.run(interrupted)
    assert (end.value.code, capsys.readouterr().err) == (130, message)


def test_a_signal_to_one_rank_stops_all_of_them(tmp_path: Path) -> None:
    with started(tmp_path, "--devices", "2", "--batch_size", "64") as run:
        os.kill(children_of(run)[1], signal.SIGTERM)
        code, err = wait_for_end(run)
    assert (code, err.count("\n")) == (75, 1)
    assert f"SIGTERM after step {saved_step(tmp_path)}, saved" in err


def test_a_rank_that_stops_first_lets_the_others_finish() -> None:
    ends = ["import sys, time; time.sleep(0.5); print('saved'); sys.exit(75)", "import sys; sys.exit(75)"]
    ranks = [subprocess.Popen([sys.executable, "-c", end], stdout=subprocess.PIPE) for end in ends]
    assert wait_for(ranks) == 75
    assert [rank.communicate()[0] for rank in ranks] == [b"saved\n", b""]


def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    with started(tmp_path, "--devices", "2", "--batch_size", "32") as run:
        ranks = children_of(run)
        os.kill(ranks[1], signal.SIGKILL)
        code, _ = wait_for_end(run)
    assert code == 1
    assert not any(alive(pid) for pid in ranks)


def test_ranks_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    with started(tmp_path, "--devices", "2", "--batch_size", "32") as run:
        ranks = children_of(run)
        run.kill()
        deadline = time.monotonic() + END_TIMEOUT
        while any(alive(pid) for pid in ranks):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("scontrol_code", [0, 1])
def test_a_slurm_job_is_requeued_when_its_time_is_nearly_up(scontrol_code: int, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho no >&2\nexit {scontrol_code}\n')
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
    with started(tmp_path, "--batch_size", "64", **job, PATH=f"{tmp_path}:{os.environ['PATH']}") as run:
        os.kill(run.pid, signal.SIGUSR1)
        code, err = wait_for_end(run)
    assert code == 75
    assert (tmp_path / "arguments").read_text() == "requeue 40_3\n"
    assert ("requeued" in err) == (scontrol_code == 0)
    assert ("warning: scontrol requeue 40_3: no" in err) == (scontrol_code == 1)


SENDS_TWO_SIGNALS = """
import os, signal, time
from cl.run.train.stop_signals import StopOnSignal
callback = StopOnSignal(None)
callback.setup(None, None, "fit")
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGINT)  # directly and from the launcher: counts as one signal
time.sleep(1.2)
print("still here", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("never here", flush=True)
"""


def test_a_second_signal_ends_the_run_immediately() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SENDS_TWO_SIGNALS], cwd=ROOT, capture_output=True, text=True, timeout=END_TIMEOUT
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "still here\n", "")


def test_a_killed_worker_ends_the_run_with_advice_on_memory(tmp_path: Path) -> None:
    with started(tmp_path, "--batch_size", "64", "--num_workers", "2", "--loader", "torchvision") as run:
        os.kill(children_of(run)[0], signal.SIGKILL)
        code, err = wait_for_end(run)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("stopped: DataLoader worker (pid")  # "is killed" or "exited unexpectedly"
    assert "reduce --num_workers" in err


TWO_RANKS = pytest.param(["--devices", "2", "--num_workers", "0"], marks=pytest.mark.slow)


@pytest.mark.parametrize("flags", [["--num_workers", "2"], TWO_RANKS])
def test_a_file_that_breaks_during_a_run_is_named(flags: list[str], tmp_path: Path) -> None:
    write_images(tmp_path)
    broken = tmp_path / "train/a/007.jpg"
    with started(tmp_path, "--batch_size", "8", *flags, images=FILES) as run:
        broken.write_bytes(broken.read_bytes()[:300])
        code, err = wait_for_end(run)
    assert code == 1
    lines = [line for line in err.splitlines() if "train/a/007.jpg: " in line]
    assert lines, err
    assert all("it was a valid image when the run began" in line for line in lines)
    assert "Traceback" not in err
