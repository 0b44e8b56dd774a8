"""What started this process: the variables of torchrun, srun and mpirun, checked before anything waits for a rank."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cl.errors import LauncherError, Stopped, UserError

MPI = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
}
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """A process among those that a launcher started."""

    rank: int
    world_size: int
    local_rank: int


def place() -> Place | None:
    """This process's place by torchrun's variables; None if no launcher has set them, LauncherError if only in part."""
    size = _count("WORLD_SIZE", low=1) if "WORLD_SIZE" in os.environ else 1
    if "RANK" not in os.environ and size == 1:
        return None
    alone = size == 1 and "WORLD_SIZE" in os.environ
    _require("RANK", "WORLD_SIZE", *([] if alone else ["LOCAL_RANK"]))
    return Place(_count("RANK", high=size - 1), size, 0 if alone else _count("LOCAL_RANK"))


def check_meeting_point() -> None:
    """Where the processes of a launcher connect to each other."""
    _require("MASTER_ADDR", "MASTER_PORT")
    _count("MASTER_PORT", low=1, high=65535)


def _require(*names: str) -> None:
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        present = [name for name in TORCHRUN if os.environ.get(name)]
        raise LauncherError(
            f"{missing[0]}: not set, although {_listed(present)}; expected all of "
            f"{', '.join(TORCHRUN)}, as torchrun sets them, or none"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{' and '.join(filter(None, [', '.join(names[:-1]), *names[-1:]]))} {'is' if len(names) == 1 else 'are'}"


def refuse_mpi() -> None:
    """mpirun starts copies of a program that know nothing of each other here: each would train by itself."""
    for size, rank in MPI.items():
        started = os.environ.get(size, "")
        if started.isdecimal() and int(started) > 1 and "RANK" not in os.environ and not in_slurm_step():
            if os.environ.get(rank, "0") != "0":
                raise Stopped("", 2)  # the first one prints
            raise UserError(
                f"{size}: got {started} from mpirun, which cannot start this program; expected torchrun, as in "
                "bash_files/torchrun.sh, or srun"
            )


def slurm_tasks() -> int:
    """The number of tasks of the job, or of the step that this process belongs to; 1 without SLURM."""
    return max(_count(name, low=1) if name in os.environ else 1 for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"))


def in_slurm_step() -> bool:
    """Whether srun has started this process as one of several. A batch script is task 0 and belongs to no step."""
    if "SLURM_STEP_NUM_TASKS" in os.environ and _count("SLURM_STEP_NUM_TASKS") < 2:  # the shell of salloc
        return False
    return slurm_tasks() > 1 and ("SLURM_STEP_ID" in os.environ or os.environ.get("SLURM_PROCID", "0") != "0")


def torchrun_variables(slurm: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from those of a task that srun has started."""
    tasks = slurm_tasks()
    nodes = slurm.get("SLURM_STEP_NODELIST") or slurm.get("SLURM_JOB_NODELIST") or slurm.get("SLURM_NODELIST", "")
    several = "," in nodes or "[" in nodes
    job = _count("SLURM_JOB_ID") if "SLURM_JOB_ID" in slurm else 0
    variables = {
        "RANK": str(_count("SLURM_PROCID", high=tasks - 1)),
        "LOCAL_RANK": str(_count("SLURM_LOCALID")),
        "WORLD_SIZE": str(tasks),
        "NODE_RANK": str(_count("SLURM_NODEID") if "SLURM_NODEID" in slurm else 0),
    }
    address = first_host(nodes) if several else "127.0.0.1"
    return {"MASTER_ADDR": address, "MASTER_PORT": str(20_000 + job % 10_000)} | _master(slurm) | variables


def _master(slurm: Mapping[str, str]) -> dict[str, str]:
    """The address that the user has chosen."""
    return {name: slurm[name] for name in ("MASTER_ADDR", "MASTER_PORT") if slurm.get(name)}


def first_host(nodes: str) -> str:
    """The first host of SLURM's list: node01 of `node[01-03,07],other`."""
    first = re.match(r"(\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else "")


def _count(name: str, low: int = 0, high: int = 2**31) -> int:
    """The value of a variable that holds an integer in a range."""
    value = os.environ.get(name, "")
    if not value:
        raise LauncherError(f"{name}: not set, expected an integer from the launcher")
    if not re.fullmatch(r"[0-9]{1,10}", value) or not low <= int(value) <= high:
        expected = f"an integer at least {low}" if high == 2**31 else f"an integer from {low} to {high}"
        raise LauncherError(f"{name}: got {value}, expected {expected} from the launcher")
    return int(value)
