"""Resolve the device flags on this machine."""

import os
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from cl.cli import Resolved
from cl.config.programs import Linear, Pretrain
from cl.config.run import DeviceConfig
from cl.errors import UserError, count_of
from cl.machine.cores import cores_per_process

P = TypeVar("P", Pretrain, Linear)


@dataclass(frozen=True)
class Devices:
    """The devices of a run, in Lightning's terms."""

    accelerator: str  # "gpu" or "cpu"
    devices: int | list[int]
    nodes: int = 1

    @property
    def processes(self) -> int:
        return self.count * self.nodes

    def local(self, number: int) -> int:
        """The device index of local process `number`."""
        return number if isinstance(self.devices, int) else self.devices[number]

    @property
    def count(self) -> int:
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    def device(self, number: int) -> torch.device:
        """The device of local process `number`."""
        return torch.device("cpu") if self.accelerator == "cpu" else torch.device("cuda", self.local(number))

    def __str__(self) -> str:
        if self.accelerator == "cpu":
            return f"CPU, {torch.get_num_threads()} threads"
        by_name: dict[str, list[str]] = {}
        for index in range(self.devices) if isinstance(self.devices, int) else self.devices:
            by_name.setdefault(torch.cuda.get_device_name(index), []).append(str(index))
        return ", ".join(f"GPU {' '.join(indices)} ({name})" for name, indices in by_name.items())


def on_devices(resolved: Resolved[P]) -> tuple[Resolved[P], Devices]:
    """The run with its --precision, and its devices; UserError if they are missing or do not support it."""
    config = resolved.config
    devices = choose_devices(config.device)
    if config.device.precision == "16-mixed" and devices.accelerator == "cpu":
        raise UserError("--precision: got 16-mixed on a CPU, expected 32 or bf16-mixed")
    if config.device.precision == "64" and devices.accelerator == "gpu":
        raise UserError("--precision: got 64 on a GPU, expected it with --accelerator cpu: it is for checks")
    if isinstance(config, Pretrain) and config.device.graphs == "on":
        _check_graphs(config, devices)
    if config.device.precision != "auto":
        return resolved, devices
    # config.json and resuming keep what auto stands for.
    has_bf16 = devices.accelerator == "gpu" and torch.cuda.is_bf16_supported(including_emulation=False)
    device = replace(config.device, precision="bf16-mixed" if has_bf16 else "32")
    return replace(resolved, config=replace(config, device=device)), devices


def why_no_graphs(config: Pretrain, devices: Devices) -> str:
    """Why the networks of this run are not replayed as CUDA graphs on GPUs; "" if they are."""
    if config.batches_per_loss > 1:
        return "--exact_negatives computes each forward pass twice"
    if config.backbone.freeze_backbone_epochs:
        return "--freeze_backbone_epochs changes within the run how the backbone is computed"
    if devices.processes > 1 and config.device.sync_batchnorm:
        return "batch norm waits for the other processes (--no_sync_batchnorm: each has its own statistics)"
    return ""


def _check_graphs(config: Pretrain, devices: Devices) -> None:
    reason = "CUDA graphs need a GPU" if devices.accelerator == "cpu" else why_no_graphs(config, devices)
    if reason:
        raise UserError(f"--graphs: got on, expected auto or off: {reason}")


def limit_threads() -> None:
    """At most one thread per usable core, unless OMP_NUM_THREADS says otherwise; the default ignores quotas."""
    from threadpoolctl import threadpool_info, threadpool_limits

    cores = cores_per_process()
    if "OMP_NUM_THREADS" in os.environ:
        return
    if torch.get_num_threads() > cores:
        torch.set_num_threads(cores)
    if any(pool["num_threads"] > cores for pool in threadpool_info()):
        threadpool_limits(cores)  # NumPy's and scikit-learn's


def choose_devices(config: DeviceConfig) -> Devices:
    """The devices that the flags request, by default one GPU if present, else the CPU; UserError if missing."""
    present = torch.cuda.device_count()
    if config.gpus is not None:
        _check_indices(config.gpus, present)
        return Devices("gpu", list(config.gpus), config.num_nodes)
    if config.accelerator == "gpu" and not present:
        raise UserError("--accelerator: got gpu, but torch finds no GPU on this machine; expected --accelerator cpu")
    accelerator = "gpu" if present and config.accelerator != "cpu" else "cpu"
    count = config.devices or 1
    if accelerator == "gpu" and count > present:
        raise UserError(f"--devices: got {count}, expected at most the {count_of(present, 'GPU')} of this machine")
    return Devices(accelerator, count, config.num_nodes)


def _check_indices(gpus: tuple[int, ...], present: int) -> None:
    typed = " ".join(map(str, gpus))
    if not present:
        raise UserError(
            f"--gpus: got {typed}, but torch finds no GPU on this machine; for the CPU: --devices 1 --accelerator cpu"
        )
    if len(set(gpus)) != len(gpus):
        raise UserError(f"--gpus: got {typed}, expected each index once")
    if max(gpus) >= present:
        count = f"; for {_in_words(gpus[0])} GPUs: --devices {gpus[0]}" if len(gpus) == 1 and gpus[0] > 1 else ""
        raise UserError(f"--gpus: got {typed}, expected indices from 0 to {present - 1}, not a count{count}")


def _in_words(count: int) -> str:
    return {2: "two", 3: "three", 4: "four", 8: "eight"}.get(count, str(count))
