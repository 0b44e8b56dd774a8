"""Run commands and measure their time and memory, or end them at a limit."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"


def machine() -> str:
    """The hardware that a bench ran on, in words."""
    return torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} threads"


class Took(NamedTuple):
    seconds: float
    cpu_seconds: float  # of the command and the processes that it has waited for
    peak_mib: float  # GPU memory, or RAM of all processes, in which a shared page counts once


def watched(*command: str) -> Took:
    """Run a Python command in a new session, and measure its memory four times a second."""
    began = time.perf_counter()
    used = cpu_seconds_of_children()
    before = gpu_mib() if GPU else 0.0
    peak = 0.0
    with subprocess.Popen([sys.executable, *command], start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, gpu_mib() - before if GPU else session_mib(process.pid))
            time.sleep(0.25)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    return Took(time.perf_counter() - began, cpu_seconds_of_children() - used, peak)


def limited(command: Sequence[str], limit: float, log: Path, folder: Path) -> str:
    """Run a command in `folder` with its output in `log`; "" if it succeeded, else what happened.

    At its limit it is ended with all processes that it has started.
    """
    with log.open("w") as output:  # not a pipe: a child that lived on would hold it open
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            return f"ended after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    last_words = log.read_text(errors="replace").split()[-20:]
    return f"exit code {code}: {' '.join(last_words)}" if code else ""


def cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def gpu_mib() -> float:
    """GPU memory in use by all processes."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def session_mib(session: int) -> float:
    """RAM of all processes in a session (Linux)."""
    kib = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                kib += int((folder / "smaps_rollup").read_text().split("Pss:")[1].split()[0])
        except (OSError, IndexError):  # the process has just ended
            continue
    return kib / 1024
