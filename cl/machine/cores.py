"""How many cores this process may use: seldom all of the machine's, in a job or in a container."""

import os
import platform
from pathlib import Path

from cl.machine.cgroups import cpu_quota


def usable_cores() -> int:
    """The smallest of the process's affinity, the quotas of its control groups and SLURM's cores per task."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    if quota is not None:
        cores = min(cores, int(quota))  # a thread on half a core would stop for half of the time
    per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if per_task.isdecimal() and int(per_task):
        cores = min(cores, int(per_task))
    return max(1, cores)


def cores_per_process() -> int:
    """This process's part of the usable cores, where a launcher has started several on them."""
    started = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, usable_cores() // int(started)) if started.isdecimal() and int(started) else usable_cores()


def processor_name() -> str:
    """What the machine's processor is called, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
