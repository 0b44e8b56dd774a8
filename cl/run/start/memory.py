"""Memory use: on a GPU what torch allocates, on a CPU the resident memory of the process (Linux only)."""

import shutil
from contextlib import suppress
from pathlib import Path

import torch

from cl.errors import format_bytes
from cl.machine.cgroups import memory_left

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
SYSTEM = Path("/proc/meminfo")
SHARED_MEMORY = Path("/dev/shm")  # where batches lie between a worker and the training process


class Peak:
    """Measures the peak since it was created."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline: int | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):  # some sandboxes do not let it be reset
            CLEAR_REFS.write_text("5")  # resets VmHWM, the peak (proc(5))
            self.baseline = _bytes(STATUS, "VmRSS")

    def bytes(self) -> int | None:
        """On a GPU the allocated total, on a CPU the growth of the process; None if it cannot be measured."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = _bytes(STATUS, "VmHWM")
        return None if peak is None or self.baseline is None else peak - self.baseline

    def __str__(self) -> str:
        peak = self.bytes()
        if peak is None:
            return "not measured on this system"
        source = "allocated by torch" if self.device.type == "cuda" else "growth of the process"
        return f"{format_bytes(peak)} at the peak of a step, {source}"


def available_memory() -> int | None:
    """Bytes of RAM that are free on the machine, or in its job or container if that is less; None if unknown."""
    free = _bytes(SYSTEM, "MemAvailable")
    if free is None:
        return None
    allowed = memory_left()
    return free if allowed is None else min(free, allowed)


def free_bytes(folder: Path) -> int | None:
    """The free space of the file system of `folder`; None if it does not exist."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _bytes(file: Path, name: str) -> int | None:
    """Read a line such as "VmRSS:   123 kB" of a file in /proc; None if the system does not have it."""
    try:
        return 1024 * int(file.read_text().split(f"{name}:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None
