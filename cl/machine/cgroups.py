"""What the control groups of this process allow: a container, a job or a service may use less than the machine has.

Both versions: v2 has one tree, in v1 each controller has its own. Limits of all levels count: the smallest one does.
"""

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self")
UNLIMITED = 2**60  # v1 writes its largest page-aligned integer where there is no limit


def cpu_quota() -> float | None:
    """How many cores' worth of time the process may use; None without a limit."""
    limits = [_ratio(folder, "cpu.max") for folder in _folders("")]
    limits += [_ratio(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us") for folder in _folders("cpu")]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_left() -> int | None:
    """Bytes that the process may still use; None without a limit."""
    left = [_difference(folder, "memory.max", "memory.current") for folder in _folders("")]
    left += [_difference(folder, "memory.limit_in_bytes", "memory.usage_in_bytes") for folder in _folders("memory")]
    return min((count for count in left if count is not None), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """The control groups of this process from its own to the root, in the tree of a v1 controller, or of v2 for ""."""
    group = _group_of(controller)
    for root, mount in _mounts(controller):
        inside = Path(mount)
        if group is not None and Path(group).is_relative_to(root):
            inside = inside / Path(group).relative_to(root)
        while True:
            yield inside
            if inside == Path(mount):
                break
            inside = inside.parent


def _group_of(controller: str) -> str | None:
    """The path of the process's group; lines of /proc/self/cgroup read `4:memory:/a/b`, of v2 `0::/a/b`."""
    for line in _lines(PROC / "cgroup"):
        number, names, path = [*line.split(":", 2), "", ""][:3]
        if controller in names.split(",") if controller else number == "0" and not names:
            return path
    return None


def _mounts(controller: str) -> Iterator[tuple[str, str]]:
    """Root and mount point of each mounted tree: `36 32 0:33 ROOT MOUNT rw ... - cgroup cgroup rw,memory`."""
    for line in _lines(PROC / "mountinfo"):
        place, _, kind = (part.split() for part in line.partition(" - "))
        if len(place) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" and not controller:
            yield place[3], place[4]
        if kind[0] == "cgroup" and controller and controller in kind[2].split(","):
            yield place[3], place[4]


def _ratio(folder: Path, *names: str) -> float | None:
    """Quota divided by period, which lie in one file in v2 and in two in v1."""
    words = [word for name in names for line in _lines(folder / name) for word in line.split()]
    if len(words) < 2 or not all(word.isdecimal() for word in words[:2]):  # "max", -1
        return None
    quota, period = map(int, words[:2])
    return quota / period if quota and period else None


def _difference(folder: Path, limit: str, used: str) -> int | None:
    words = [line.strip() for name in (limit, used) for line in _lines(folder / name)]
    if len(words) < 2 or not all(word.isdecimal() for word in words) or int(words[0]) > UNLIMITED:
        return None
    return max(0, int(words[0]) - int(words[1]) + _cached_files(folder))


def _cached_files(folder: Path) -> int:
    """Bytes of cached files, which count as used but are freed on demand; a name may count the groups below, too."""
    counts = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    count = counts.get("total_inactive_file", counts.get("inactive_file", "0")).strip()
    return int(count) if count.isdecimal() else 0


def _lines(file: Path) -> list[str]:
    """The lines of a file; none if it does not exist or cannot be read."""
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
