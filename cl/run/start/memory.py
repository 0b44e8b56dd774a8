"""Memory that something takes: on a GPU what torch allocates, on a CPU what the process has in RAM (Linux only)."""

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
SYSTEM = Path("/proc/meminfo")
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, likewise USED
USED = Path("/sys/fs/cgroup/memory.current")


class Peak:
    """The peak since this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif STATUS.exists():
            Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak since now (proc(5))
            self.before = _bytes(STATUS, "VmRSS")

    def bytes(self) -> int | None:
        """On a GPU all that is allocated, on a CPU what the process grew by; None where that is not to be had."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _bytes(STATUS, "VmHWM") - self.before if STATUS.exists() else None

    def __str__(self) -> str:
        found = self.bytes()
        if found is None:
            return "not measured on this system"
        what = "allocated by torch" if self.device.type == "cuda" else "more than before in the RAM of the process"
        return f"{format_bytes(found)} at the peak of a step, {what}"


def available() -> int | None:
    """Bytes of RAM that a process may still take: of the machine, or of its container where that has fewer."""
    if not SYSTEM.exists():
        return None
    of_machine = _bytes(SYSTEM, "MemAvailable")
    limit = LIMIT.read_text().strip() if LIMIT.exists() else "max"
    return of_machine if limit == "max" else min(of_machine, int(limit) - int(USED.read_text()))


def _bytes(file: Path, name: str) -> int:
    """A line such as "VmRSS:   123 kB" of a file in /proc."""
    return 1024 * int(file.read_text().split(f"{name}:")[1].split()[0])


def format_bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
