"""The variables of torchrun, srun and mpirun are checked as a whole, and no process waits for another for ever."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cl.errors import LauncherError, Stopped, UserError
from cl.machine import launcher
from tests.conftest import ROOT, TINY, Run

PREFIXES = ("SLURM_", "OMPI_", "PMI_", "MV2_", "TORCHELASTIC_")
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
TWO = ["digits", "resnet18", *TINY, "--devices", "2", "--accelerator", "cpu", "--fast_dev_run"]
ONE = ["digits", "resnet18", *TINY, "--devices", "1", "--accelerator", "cpu", "--fast_dev_run"]
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SALLOC = {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}
SBATCH = {**SALLOC, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = {**SBATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "node[1-2]"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start from an environment without a launcher, and restore it: translating SLURM's variables changes it."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name in NAMES:
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ |= before


def without(variables: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


REFUSED = {  # what is wrong: variables, flags, parts of the line
    "no size": (without(TORCHRUN, "WORLD_SIZE"), TWO, ["WORLD_SIZE: not set"]),
    "no rank": (without(TORCHRUN, "RANK"), TWO, ["RANK: not set", "torchrun"]),
    "only a rank, one process": ({"RANK": "1"}, ONE, ["WORLD_SIZE: not set"]),
    "no local rank": (without(TORCHRUN, "LOCAL_RANK"), TWO, ["LOCAL_RANK: not set"]),
    "no address": (without(TORCHRUN, "MASTER_ADDR"), TWO, ["MASTER_ADDR: not set"]),
    "no port": (without(TORCHRUN, "MASTER_PORT"), TWO, ["MASTER_PORT: not set"]),
    "empty": (TORCHRUN | {"MASTER_ADDR": ""}, TWO, ["MASTER_ADDR: not set"]),
    "a rank in words": (TORCHRUN | {"RANK": "first"}, TWO, ["RANK: got first", "from 0 to 1"]),
    "a negative rank": (TORCHRUN | {"RANK": "-1"}, TWO, ["RANK: got -1"]),
    "a rank beyond the size": (TORCHRUN | {"RANK": "2"}, TWO, ["RANK: got 2", "from 0 to 1"]),
    "a size of 0": (TORCHRUN | {"WORLD_SIZE": "0"}, TWO, ["WORLD_SIZE: got 0", "at least 1"]),
    "a size in words": (TORCHRUN | {"WORLD_SIZE": "two"}, TWO, ["WORLD_SIZE: got two"]),
    "a local rank beyond the devices": (TORCHRUN | {"LOCAL_RANK": "2"}, TWO, ["LOCAL_RANK: got 2", "2 of --devices"]),
    "a port in words": (TORCHRUN | {"MASTER_PORT": "http"}, TWO, ["MASTER_PORT: got http"]),
    "a port that no machine has": (TORCHRUN | {"MASTER_PORT": "70000"}, TWO, ["MASTER_PORT: got 70000", "65535"]),
    "one process of two": (TORCHRUN, ONE, ["--devices: got 1 on 1 node, expected the 2 processes"]),
    "salloc without srun": (SALLOC, TWO, ["--devices: got 2 in a SLURM job of 2 tasks", "expected srun"]),
    "sbatch without srun": (SBATCH, TWO, ["--devices: got 2 in a SLURM job of 2 tasks", "expected srun"]),
    "the shell of salloc": (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, TWO, ["SLURM job of 2 tasks", "expected srun"]),
    "srun without a task": (without(SRUN, "SLURM_PROCID"), TWO, ["SLURM_PROCID: not set"]),
    "srun with words": (SRUN | {"SLURM_NTASKS": "many"}, TWO, ["SLURM_NTASKS: got many"]),
    "srun with an odd job": (SRUN | {"SLURM_JOB_ID": "4_1"}, TWO, ["SLURM_JOB_ID: got 4_1"]),
    "srun of three tasks": (SRUN | {"SLURM_NTASKS": "3"}, TWO, ["expected the 3 processes"]),
    "mpirun": ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, TWO, ["OMPI_COMM_WORLD_SIZE", "torchrun"]),
    "mpiexec, one process each": ({"PMI_SIZE": "2", "PMI_RANK": "0"}, ONE, ["PMI_SIZE: got 2", "srun"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_variables_that_do_not_fit_together_are_refused(case: str, run: Run, folder: Path) -> None:
    variables, flags, expected = REFUSED[case]
    os.environ |= variables
    code, out, err = run("main_contrastive.py", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(text in err for text in ("error: ", *expected)), err
    assert list(folder.iterdir()) == []


def test_only_the_first_copy_that_mpirun_starts_prints(run: Run) -> None:
    os.environ |= {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert run("main_contrastive.py", *TWO) == (2, "", "")


@pytest.mark.parametrize("variables", [SALLOC, SBATCH], ids=["salloc", "sbatch"])
def test_a_single_process_runs_in_a_job_of_several_tasks(variables: dict[str, str], run: Run) -> None:
    os.environ |= variables
    code, _, err = run("main_contrastive.py", *ONE, "--dry_run")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"SLURM_JOB_ID": "4", "SLURM_NTASKS": "1"}])
def test_one_task_is_no_launcher(variables: dict[str, str]) -> None:
    os.environ |= variables
    launcher.refuse_mpi()
    assert (launcher.place(), launcher.slurm_tasks(), launcher.in_slurm_step()) == (None, 1, False)


def test_the_shell_of_an_interactive_srun_starts_processes_itself() -> None:
    os.environ |= {"SLURM_JOB_ID": "4", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}
    assert launcher.slurm_tasks() == 1


def test_srun_with_pmi_is_not_mpirun() -> None:
    os.environ |= SRUN | {"PMI_SIZE": "2", "PMI_RANK": "1"}
    launcher.refuse_mpi()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[01-03,07]", "node01"),
        ("node7", "node7"),
        ("a,b[1-2]", "a"),
        ("b[002,5]-ib,c", "b002-ib"),
        ("rack[1-2]n[3-4],x", "rack1n3"),
        ("gpu-a-[9-12]", "gpu-a-9"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_node_list_needs_no_scontrol(nodes: str, first: str) -> None:
    assert launcher.first_host(nodes) == first


def test_the_nodes_of_the_step_count_and_the_users_address_and_port_win() -> None:
    os.environ |= SRUN | {"SLURM_STEP_NODELIST": "node[2-3]", "SLURM_PROCID": "1", "SLURM_JOB_ID": "123456"}
    translated = launcher.torchrun_variables(os.environ)
    assert (translated["MASTER_ADDR"], translated["MASTER_PORT"], translated["RANK"]) == ("node2", "23456", "1")
    os.environ["MASTER_PORT"] = "777"
    assert launcher.torchrun_variables(os.environ)["MASTER_PORT"] == "777"
    os.environ["SLURM_STEP_NODELIST"] = "node9"  # a container may not know its own host's name
    assert launcher.torchrun_variables(os.environ)["MASTER_ADDR"] == "127.0.0.1"


MEETS = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from cl import cli, distributed
distributed.RANKS_COME = 2.0
def main(argv):
    if argv == ["late"]:
        time.sleep(1)
    distributed.connect("gloo")
    print("rank", distributed.rank(), "of", distributed.world_size())
cli.run(main)
"""


def meet(ranks: dict[int, list[str]], **variables: str) -> dict[int, tuple[int, str, str]]:
    """Start some of the ranks; exit code, stdout and stderr of each, within a minute."""
    processes = {}
    for rank, arguments in ranks.items():
        environment = os.environ | TORCHRUN | {"RANK": str(rank), "OMP_NUM_THREADS": "1"} | variables
        command = [sys.executable, "-c", MEETS, *arguments]
        processes[rank] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    ends = {}
    for rank, process in processes.items():
        out, err = process.communicate(timeout=60)
        ends[rank] = (process.returncode, out, err)
    return ends


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_ranks_that_come_one_after_the_other_meet() -> None:
    ends = meet({0: ["late"], 1: []}, MASTER_PORT=free_port())
    assert ends == {rank: (0, f"rank {rank} of 2\n", "") for rank in (0, 1)}


def test_a_rank_that_never_comes_is_named() -> None:
    (end,) = meet({0: []}, WORLD_SIZE="3", MASTER_PORT=free_port()).values()
    expected = "stopped: of 3 processes, rank 1, 2 did not come within 2 s (came: rank 0); the launcher must start all "
    assert end[:2] == (1, "")
    assert end[2].startswith(expected)
    assert end[2].count("\n") == 1


def test_a_first_rank_that_never_comes_is_named() -> None:
    (end,) = meet({1: []}, MASTER_PORT=free_port()).values()
    assert end[:2] == (1, "")
    assert end[2].startswith("stopped: rank 0 did not come within 2 s: no answer from 127.0.0.1:")
    assert end[2].count("\n") == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        (end,) = meet({0: []}, MASTER_PORT=port).values()
    assert end == (2, "", f"error: MASTER_PORT: got {port}, expected a free port (Address already in use)\n")


def test_an_address_that_does_not_resolve_is_named() -> None:
    from cl.distributed import connect

    os.environ |= TORCHRUN | {"MASTER_ADDR": "no-such-host.invalid"}
    with pytest.raises(UserError, match=r"MASTER_ADDR: got no-such-host\.invalid, expected the address"):
        connect("gloo")


def test_a_rank_that_came_and_died_is_named() -> None:
    from torch.distributed import HashStore

    from cl import distributed

    store = HashStore()
    store.set("stayed/1", "1")
    with pytest.raises(Stopped, match="of 3 processes, rank 2 did not come"):
        distributed._wait_for_ranks(store, "stayed", 0, 3, time.monotonic())


def test_a_launcher_error_is_printed_by_every_rank(run: Run) -> None:
    os.environ |= without(TORCHRUN, "MASTER_PORT") | {"RANK": "1"}
    with pytest.raises(LauncherError):
        launcher.check_meeting_point()
    code, _, err = run("main_contrastive.py", *TWO)
    assert (code, err.count("\n")) == (2, 1)
