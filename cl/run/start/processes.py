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
from cl.run.start.devices import Devices
from cl.run.start.signal_forwarding import forwarding_signals

PATIENCE = 5  # seconds that a process has to end by itself when another one has failed
JOINT_CODES = (NOT_FINITE, RESUMABLE, INTERRUPTED)  # exit codes with which all processes end by themselves


def processes_missing(config: Pretrain | Linear, devices: Devices) -> bool:
    """Whether the run needs several processes and no launcher has started them."""
    if not needs_processes(config, devices):
        return False
    _translate_slurm()
    return "RANK" not in os.environ


def needs_processes(config: Pretrain | Linear, devices: Devices) -> bool:
    """A dry run has one process, which plans for all."""
    return devices.processes > 1 and not config.run.dry_run


def join_processes(config: Pretrain | Linear, devices: Devices) -> RankSlice:
    """Connect to the other processes of the run, if there are any; this one's slice of the work."""
    if not needs_processes(config, devices):
        return RankSlice(0, devices.processes)
    started = int(os.environ["WORLD_SIZE"])
    if started != devices.processes:
        flag = "gpus" if config.device.gpus else "devices"
        raise UserError(
            f"--{flag}: got {devices.count} on {devices.nodes} node(s), expected the {started} processes that the "
            "launcher started; --num_nodes and --devices have to match it"
        )
    if devices.accelerator == "gpu":
        torch.cuda.set_device(devices.local(int(os.environ["LOCAL_RANK"])))
    connect("nccl" if devices.accelerator == "gpu" else "gloo")
    return RankSlice(rank(), world_size())


def own_device(devices: Devices) -> torch.device:
    """The device of this process."""
    return devices.device(int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0)


def start_processes(devices: Devices) -> int:
    """Run this command once per device and wait; the exit code of the first that fails, after which all others end."""
    if devices.nodes > 1:
        raise UserError(
            f"--num_nodes: got {devices.nodes}, expected a launcher on each node, as in bash_files/torchrun.sh"
        )
    command = [sys.executable, *sys.orig_argv[1:]]
    # In sessions of their own, so that Ctrl-C reaches them once: from here.
    ranks = [
        subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_end_with_parent)
        for environment in rank_environments(devices.count)
    ]
    return wait_for(ranks)


def _end_with_parent() -> None:
    """Linux kills this process when the one that started it is gone, even by SIGKILL."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def rank_environments(count: int) -> list[dict[str, str]]:
    """The environments of `count` processes on this machine, in torchrun's words."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    common = {"OMP_NUM_THREADS": threads, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    own = [{"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)} for number in range(count)]
    return [common | os.environ | each for each in own]


def wait_for(processes: list["subprocess.Popen[bytes]"]) -> int:
    """The exit code of the first process that fails, after which no other lives on; 0 if none does."""
    with forwarding_signals(processes):
        try:
            while True:
                codes = [process.poll() for process in processes]
                if any(codes) or all(code == 0 for code in codes):
                    return next((code if code > 0 else 1 for code in codes if code), 0)
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _translate_slurm() -> None:
    """Under srun, the names that torch and torchrun use."""
    slurm = os.environ
    if "RANK" in slurm or int(slurm.get("SLURM_NTASKS", "1")) < 2 or not shutil.which("scontrol"):
        return
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", slurm["SLURM_JOB_NODELIST"]], capture_output=True, text=True, check=True
    )
    os.environ |= {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_NTASKS"],
        "NODE_RANK": slurm["SLURM_NODEID"],
        "MASTER_ADDR": nodes.stdout.split()[0],
        "MASTER_PORT": str(20_000 + int(slurm["SLURM_JOB_ID"]) % 10_000),
    }
