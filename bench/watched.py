"""Commands, and what they take of the machine."""

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"


def machine() -> str:
    """What the figures of a bench were measured on, in words."""
    return torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} threads"


class Took(NamedTuple):
    seconds: float
    peak_mib: float  # of the GPU's memory, or in RAM of all processes; a page that several share counts once


def watched(*command: str) -> Took:
    """Run Python on a command in a session of its own, and look at it four times a second."""
    began = time.perf_counter()
    before = gpu_mib() if GPU else 0.0
    peak = 0.0
    with subprocess.Popen([sys.executable, *command], start_new_session=True, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, gpu_mib() - before if GPU else session_mib(process.pid))
            time.sleep(0.25)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    return Took(time.perf_counter() - began, peak)


def gpu_mib() -> float:
    """Of all processes."""
    free, whole = torch.cuda.mem_get_info()
    return (whole - free) / 2**20


def session_mib(session: int) -> float:
    """Of the processes of a session (Linux)."""
    kib = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                kib += int((folder / "smaps_rollup").read_text().split("Pss:")[1].split()[0])
        except (OSError, IndexError):  # it has just ended
            continue
    return kib / 1024
