"""One process per device: started here, by torchrun or by SLURM."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch

from cl.config.programs import Linear, Pretrain
from cl.data.sampler import RankSlice
from cl.distributed import connect, rank, world_size
from cl.errors import INTERRUPTED, NOT_FINITE, RESUMABLE, LauncherError, UserError, count_of
from cl.machine import launcher
from cl.machine.children import end_with_parent
from cl.machine.cores import usable_cores
from cl.run.start.devices import Devices, limit_threads
from cl.run.start.signal_forwarding import forwarding_signals

PATIENCE = 5  # seconds for a process to exit by itself after another one has failed
JOINT_CODES = (NOT_FINITE, RESUMABLE, INTERRUPTED)  # exit codes with which all processes exit by themselves


def must_start_processes(config: Pretrain | Linear, devices: Devices) -> bool:
    """Whether the run needs several processes and no launcher has started them; UserError if one has in part."""
    launcher.refuse_mpi()
    several = needs_processes(config, devices)
    if several and launcher.place() is None and launcher.slurm_tasks() > 1:
        if not launcher.in_slurm_step():
            raise UserError(
                f"--{_flag(config)}: got {devices.count} in a SLURM job of {launcher.slurm_tasks()} tasks, but srun "
                "did not start this process; expected srun before the command, or a job of one task"
            )
        _translate_slurm()
    place = launcher.place()
    if place is None or config.run.dry_run:
        return several
    if place.world_size != devices.processes:
        raise UserError(
            f"--{_flag(config)}: got {devices.count} on {count_of(devices.nodes, 'node')}, expected the "
            f"{count_of(place.world_size, 'process')} that the launcher started; --num_nodes and --devices must match"
        )
    if place.local_rank >= devices.count:
        raise LauncherError(
            f"LOCAL_RANK: got {place.local_rank}, expected less than the {devices.count} of --{_flag(config)}"
        )
    if several:
        launcher.check_meeting_point()
    return False


def _flag(config: Pretrain | Linear) -> str:
    return "gpus" if config.device.gpus else "devices"


def needs_processes(config: Pretrain | Linear, devices: Devices) -> bool:
    """Whether the run needs several processes; a dry run plans for all of them in one."""
    return devices.processes > 1 and not config.run.dry_run


def join_processes(config: Pretrain | Linear, devices: Devices) -> RankSlice:
    """Connect to the other processes of the run, if any, and return this one's slice of the data."""
    limit_threads()
    several = needs_processes(config, devices)
    if devices.accelerator == "gpu":  # on another GPU than the current one, a capture would be empty
        torch.cuda.set_device(devices.local(int(os.environ["LOCAL_RANK"]) if several else 0))
    if not several:
        return RankSlice(0, devices.processes)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # an agent that is killed leaves its processes, and they would go on
        end_with_parent(os.getppid())
    connect("nccl" if devices.accelerator == "gpu" else "gloo")
    return RankSlice(rank(), world_size())


def local_device(devices: Devices) -> torch.device:
    """The device of this process."""
    return devices.device(int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0)


def start_processes(devices: Devices) -> int:
    """Run this command once per device; the exit code of the first that fails, after which the others are ended."""
    if devices.nodes > 1:
        raise UserError(
            f"--num_nodes: got {devices.nodes}, expected a launcher on each node, as in bash_files/torchrun.sh"
        )
    command = [sys.executable, *sys.orig_argv[1:]]
    end_with_this = partial(end_with_parent, os.getpid())
    # New sessions, so that the terminal's Ctrl-C reaches the ranks only once, forwarded from here.
    ranks = [
        subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=end_with_this)
        for environment in rank_environments(devices.count)
    ]
    return wait_for(ranks)


def rank_environments(count: int) -> list[dict[str, str]]:
    """The environments of `count` processes on this machine, with torchrun's variables."""
    threads = str(max(1, usable_cores() // count))
    defaults = {"OMP_NUM_THREADS": threads, "MASTER_PORT": str(_free_port())}
    common = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [defaults | os.environ | common | variables for variables in ranks]


def wait_for(processes: list["subprocess.Popen[bytes]"]) -> int:
    """The exit code of the first process that fails, after which the others are ended; 0 if all succeed."""
    with forwarding_signals(processes) as received:
        try:
            while None in (codes := [process.poll() for process in processes]) and not any(codes):
                time.sleep(0.1)
            # When one stops on a signal, others may notice, fail and end before it does.
            deadline = time.monotonic() + (PATIENCE if received else 0)
            while None in codes and not set(codes) & set(JOINT_CODES) and time.monotonic() < deadline:
                time.sleep(0.1)
                codes = [process.poll() for process in processes]
            return _common_code(codes)
        finally:
            _end(processes)


def _common_code(codes: Sequence[int | None]) -> int:
    """One with which all stop together, else the first failure's."""
    failed = [code for code in codes if code]
    joint = [code for code in failed if code in JOINT_CODES]
    code = [*joint, *failed, 0][0]
    return code if code >= 0 else 1


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    if not any(process.poll() in JOINT_CODES for process in processes):
        for process in processes:
            process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _translate_slurm() -> None:
    """Under srun, set torchrun's variables from SLURM's."""
    os.environ |= launcher.torchrun_variables(os.environ)
