"""main_contrastive.py and main_linear.py as processes of their own.

`Program` forks them from a server that has imported everything: a start of Python with torch and Lightning takes four
seconds, a fork takes none. Its ranks have the environment that torchrun gives them. `Command` is what a user types,
with a launcher that starts the ranks.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preload"])
TIMEOUT = 200  # seconds


class Done(NamedTuple):
    """What all processes of a program left together."""

    returncode: int  # of the first one that failed
    stdout: str
    stderr: str


class Output:
    """What a program has printed so far, in files that none of its processes waits for."""

    def __init__(self, folder: Path) -> None:
        name = f".program-{time.monotonic_ns()}"
        self.out = folder / f"{name}.stdout"
        self.err = folder / f"{name}.stderr"

    def done(self, returncode: int) -> Done:
        return Done(returncode, self.out.read_text(), self.err.read_text())

    def has(self, text: str) -> bool:
        return self.out.exists() and text in self.out.read_text()


class Program:
    """A program that was forked; its first process leads a process group."""

    def __init__(
        self, folder: Path, program: str, *flags: str, ranks: int = 1, environment: Mapping[str, str] = {}
    ) -> None:
        self.output = Output(folder)
        self.processes: list[BaseProcess] = []
        for rank in rank_variables(ranks):
            variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment, **rank}
            arguments = (folder, program, flags, variables, self.output)
            process = SERVER.Process(target=_run, args=arguments, daemon=False)
            process.start()
            self.processes.append(process)

    @property
    def pid(self) -> int:
        assert self.processes[0].pid
        return self.processes[0].pid

    @property
    def running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def wait(self, timeout: float = TIMEOUT) -> Done:
        """The end of all ranks; AssertionError if one still runs after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        if None in codes:
            self.kill()
            raise AssertionError(f"no end within {timeout} s: {self.output.done(1)}")
        return self.output.done(next((code for code in codes if code), 0))

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive() and process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()


class Command:
    """A program as a user types it."""

    def __init__(self, folder: Path, program: str, *flags: str, environment: Mapping[str, str] = {}) -> None:
        self.output = Output(folder)
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | dict(environment)
        with self.output.out.open("w") as out, self.output.err.open("w") as err:
            command = [sys.executable, str(ROOT / program), *flags]
            self.process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout: float = TIMEOUT) -> Done:
        return self.output.done(self.process.wait(timeout))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def run_program(folder: Path, program: str, *flags: str, ranks: int = 1, environment: Mapping[str, str] = {}) -> Done:
    """Fork a program in `folder` and wait for it."""
    return Program(folder, program, *flags, ranks=ranks, environment=environment).wait()


def rank_variables(ranks: int) -> list[dict[str, str]]:
    """The environment variables of each rank; none of a single process."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _run(folder: Path, program: str, flags: tuple[str, ...], variables: Mapping[str, str], output: Output) -> None:
    """In the child: what the command would do."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ |= variables
    for number, path in ((1, output.out), (2, output.err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    from tests.preload import PROGRAMS, cli, torch

    torch.set_num_threads(1)
    sys.argv = [str(ROOT / program), *flags]
    cli.run(PROGRAMS[program])
