"""One process per device: started here, by torchrun or by SLURM."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import torch

from cl.backbones import Backbone
from cl.backbones.resnet import ResNetBackbone
from cl.config.programs import Linear, Pretrain
from cl.config.run import DeviceConfig
from cl.data.sampler import Share
from cl.distributed import connect, rank, world_size
from cl.errors import COME_BACK, INTERRUPTED, NOT_FINITE, UserError
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.methods import ContrastiveModule
from cl.nn.batch_norm import synchronized
from cl.run.start.devices import Devices
from cl.run.start.signal_forwarding import forwarded

Trained = ContrastiveModule[Any] | LinearEvaluation
PATIENCE = 5  # seconds that a process has to end by itself when another one has failed
TOGETHER = (NOT_FINITE, COME_BACK, INTERRUPTED)  # all processes end so, but the first one has last words


def share_of(config: Pretrain | Linear, devices: Devices) -> Share:
    """Start the processes of the run, unless something else did, and return this one's share of the work.

    A dry run has one process, which plans for all.
    """
    if devices.processes == 1 or config.run.dry_run:
        return Share(0, devices.processes)
    _translate_slurm()
    if "RANK" not in os.environ:
        sys.exit(_start(devices))
    started = int(os.environ["WORLD_SIZE"])
    if started != devices.processes:
        flag = "gpus" if config.device.gpus else "devices"
        raise UserError(
            f"--{flag}: got {devices.count} on {devices.nodes} node(s), expected the {started} processes that the "
            "launcher started; --num_nodes and --devices have to say what it does"
        )
    if devices.accelerator == "gpu":
        torch.cuda.set_device(devices.local(int(os.environ["LOCAL_RANK"])))
    connect("nccl" if devices.accelerator == "gpu" else "gloo")
    return Share(rank(), world_size())


def own_device(devices: Devices) -> torch.device:
    """The device of this process."""
    return devices.device(int(os.environ["LOCAL_RANK"]) if world_size() > 1 else 0)


def prepare(module: Trained, config: DeviceConfig, devices: Devices) -> None:
    """Make a network ready for the devices: batch norm over all processes, channels last, compiled."""
    if devices.processes > 1 and config.sync_batchnorm:
        synchronized(module, devices.accelerator)
    if devices.accelerator == "gpu" or _safely_channels_last(module.backbone):
        module.to(memory_format=torch.channels_last)
    if config.compile:
        module.backbone.compile()  # in place: checkpoints keep their names


def _safely_channels_last(backbone: Backbone) -> bool:
    """Whether a CPU may have it, too: a step of a ResNet-18 is 1.0 (224 px) to 1.5 times (32 px, width 16) as fast.

    With fewer than sixteen channels, the block of AVX-512, a strided 1x1 convolution writes beyond its memory in the
    backward pass (oneDNN#6035, torch 2.14): width 4 ended in free(), width 8 in a segmentation fault, on some machines
    only. Other networks were not looked at.
    """
    return isinstance(backbone, ResNetBackbone) and backbone.stage_width >= 16


def _start(devices: Devices) -> int:
    """Run this command once per device; the exit code of the first that fails, after which no other lives on."""
    if devices.nodes > 1:
        raise UserError(
            f"--num_nodes: got {devices.nodes}, expected a launcher on each node, as in bash_files/torchrun.sh"
        )
    command = [sys.executable, *sys.orig_argv[1:]]
    # In sessions of their own, so that Ctrl-C reaches them once: from here.
    return wait_for(
        [
            subprocess.Popen(command, env=each, start_new_session=True, preexec_fn=_end_with_parent)
            for each in rank_environments(devices.count)
        ]
    )


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
    with forwarded(processes):
        try:
            while True:
                codes = [process.poll() for process in processes]
                if any(codes) or all(code == 0 for code in codes):
                    return next((code if code > 0 else 1 for code in codes if code), 0)
                time.sleep(0.1)
        finally:
            _end(processes)


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    if not any(process.poll() in TOGETHER for process in processes):
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
