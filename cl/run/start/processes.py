"""One process per device: started here, by torchrun or by SLURM."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import torch

from cl.config.programs import Linear, Pretrain
from cl.data.sampler import RankSlice
from cl.distributed import connect, rank, world_size
from cl.errors import INTERRUPTED, NOT_FINITE, RESUMABLE, UserError
from cl.machine.cores import usable_cores
from cl.run.start.devices import Devices, limit_threads
from cl.run.start.signal_forwarding import forwarding_signals

PATIENCE = 5  # seconds for a process to exit by itself after another one has failed
JOINT_CODES = (NOT_FINITE, RESUMABLE, INTERRUPTED)  # exit codes with which all processes exit by themselves


def must_start_processes(config: Pretrain | Linear, devices: Devices) -> bool:
    """Whether the run needs several processes and no launcher has started them."""
    if not needs_processes(config, devices):
        return False
    _translate_slurm()
    return "RANK" not in os.environ


def needs_processes(config: Pretrain | Linear, devices: Devices) -> bool:
    """Whether the run needs several processes; a dry run plans for all of them in one."""
    return devices.processes > 1 and not config.run.dry_run


def join_processes(config: Pretrain | Linear, devices: Devices) -> RankSlice:
    """Connect to the other processes of the run, if any, and return this one's slice of the data."""
    limit_threads()
    if not needs_processes(config, devices):
        return RankSlice(0, devices.processes)
    started = int(os.environ["WORLD_SIZE"])
    if started != devices.processes:
        flag = "gpus" if config.device.gpus else "devices"
        raise UserError(
            f"--{flag}: got {devices.count} on {devices.nodes} node(s), expected the {started} processes that the "
            "launcher started; --num_nodes and --devices must match"
        )
    if devices.accelerator == "gpu":
        torch.cuda.set_device(devices.local(int(os.environ["LOCAL_RANK"])))
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
    # New sessions, so that the terminal's Ctrl-C reaches the ranks only once, forwarded from here.
    ranks = [
        subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_end_with_parent)
        for environment in rank_environments(devices.count)
    ]
    return wait_for(ranks)


def _end_with_parent() -> None:
    """On Linux, kill this process when its parent ends, even if by SIGKILL."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def rank_environments(count: int) -> list[dict[str, str]]:
    """The environments of `count` processes on this machine, with torchrun's variables."""
    threads = str(max(1, usable_cores() // count))
    defaults = {"OMP_NUM_THREADS": threads, "MASTER_PORT": str(_free_port())}
    common = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [defaults | os.environ | common | variables for variables in ranks]


def wait_for(processes: list["subprocess.Popen[bytes]"]) -> int:
    """The exit code of the first process that fails, after which the others are ended; 0 if all succeed."""
    with forwarding_signals(processes):
        try:
            while True:
                codes = [process.poll() for process in processes]
                failed = [code for code in codes if code]
                if failed:
                    return failed[0] if failed[0] > 0 else 1
                if all(code == 0 for code in codes):
                    return 0
                time.sleep(0.1)
        finally:
            _end(processes)


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
    """Under srun, set torchrun's environment variables from SLURM's."""
    slurm = os.environ
    if "RANK" in slurm or int(slurm.get("SLURM_NTASKS", "1")) < 2 or not shutil.which("scontrol"):
        return
    command = ["scontrol", "show", "hostnames", slurm["SLURM_JOB_NODELIST"]]
    hostnames = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    os.environ |= {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_NTASKS"],
        "NODE_RANK": slurm["SLURM_NODEID"],
        "MASTER_ADDR": hostnames[0],
        "MASTER_PORT": str(20_000 + int(slurm["SLURM_JOB_ID"]) % 10_000),
    }
