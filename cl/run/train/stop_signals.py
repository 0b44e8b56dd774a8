"""Graceful stop: a signal sets a flag, and after the optimizer step all processes save and stop together.

SIGTERM and SIGUSR1 (time is nearly up) end a run with exit code 75, Ctrl-C with 130; a second signal ends it at once.
Lightning's own handler saves and broadcasts inside the handler, at any point of the program (Lightning#21406).
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cl.data.worker_processes import Waiting
from cl.distributed import broadcast_from_rank_zero, on_any_rank, rank, stop_together, world_size
from cl.errors import INTERRUPTED, RESUMABLE, Stopped, warn
from cl.run.folder.checkpoint import SaveLast, within_epoch
from cl.run.start.signal_forwarding import STOP_SIGNALS

DUPLICATE = 1.0  # seconds within which a signal is a duplicate: a job gets it directly and from its launcher
LOADER_PATIENCE = 10.0  # seconds that a stopped run still waits for its next images, to end after a complete step
GPU_INTERVAL = 16  # steps between checks on several GPUs, where a check waits for the device


class StopOnSignal(Callback):
    """Stops the trainer after a signal: after a step, which is saved, or at the end of an epoch."""

    def __init__(self, save: SaveLast) -> None:
        self.save = save
        self._received = 0  # the number of the signal received, if any
        self._received_at = 0.0
        self._previous_handlers: dict[int, Any] = {}
        self._step = 0
        self._stepped = False  # whether the last batch completed an optimizer step
        self._trainer: Trainer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        self._previous_handlers = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        self._previous_handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._stop_waiting)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and time.monotonic() - self._received_at > DUPLICATE:
            os._exit(128 + number)
        if not self._received:
            self._received = number
            self._received_at = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, LOADER_PATIENCE, 1.0)

    def _stop_waiting(self, number: int, frame: FrameType | None) -> None:
        """Called every second after a signal: if the loader does not deliver, no step ends, so stop right here."""
        if Waiting.since is None or time.monotonic() - max(Waiting.since, self._received_at) < LOADER_PATIENCE:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Other processes have begun the next step, and collectives would never end: then the last checkpoint counts.
        between_steps = self._stepped and world_size() == 1 and self._trainer.training and within_epoch(self._trainer)
        if between_steps:
            with _as_at_the_end_of_a_batch(self._trainer):
                self.save.save(self._trainer)
        requeued = self._received == signal.SIGUSR1 and rank() == 0 and requeue()
        message = f"{self._message(between_steps, requeued)}; no images came for {LOADER_PATIENCE:g} s"
        raise Stopped(message, INTERRUPTED if self._received == signal.SIGINT else RESUMABLE)

    def _message(self, saved: bool, requeued: bool) -> str:
        name = "Ctrl-C" if self._received == signal.SIGINT else signal.Signals(self._received or signal.SIGTERM).name
        message = f"{name} after step {self._trainer.global_step}"
        if self.save.path.exists():
            resume = f"resume with --resume_training_from {self.save.path.parent}"
            state = "saved" if saved else "not saved since the last checkpoint"
            message += f", {state}; {'the job was requeued' if requeued else resume}"
        return message

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stepped = False  # the epoch before is saved
        if on_any_rank(self._received > 0):
            self._stop(trainer)

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        stepped = trainer.global_step > self._step
        self._stepped = stepped
        self._step = trainer.global_step
        several_gpus = trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda"
        interval = GPU_INTERVAL if several_gpus else 1
        if stepped and self._step % interval == 0 and within_epoch(trainer) and on_any_rank(self._received > 0):
            self.save.save(trainer)
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        interrupted = on_any_rank(self._received == signal.SIGINT)
        requeued = on_any_rank(self._received == signal.SIGUSR1) and broadcast_from_rank_zero(requeue)
        if interrupted:
            self._received = signal.SIGINT
        stop_together(self._message(True, requeued), INTERRUPTED if interrupted else RESUMABLE)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not self._received:  # otherwise the launcher's duplicate may still arrive, and must not kill the shutdown
            self.on_fit_end(trainer, pl_module)


@contextmanager
def _as_at_the_end_of_a_batch(trainer: Trainer) -> Iterator[None]:
    """Lightning resumes what `on_train_batch_end` saved: before it counts the batch as completed."""
    loop = trainer.fit_loop.epoch_loop
    counts = (loop.batch_progress.total, loop.batch_progress.current)
    for count in counts:
        count.completed -= 1
    loop._batches_that_stepped -= 1
    try:
        yield
    finally:
        for count in counts:
            count.completed += 1
        loop._batches_that_stepped += 1


def requeue() -> bool:
    """Requeue a SLURM job after SIGUSR1. SIGTERM comes from scancel, or from SLURM, which requeues by itself."""
    job = os.environ.get("SLURM_JOB_ID")
    scontrol = shutil.which("scontrol")
    if job is None or scontrol is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    result = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True)
    if result.returncode:
        warn(f"scontrol requeue {job}: {' '.join(result.stderr.split())}")
    return result.returncode == 0


def disable_lightning_signals(trainer: Trainer) -> None:
    """Lightning exits with code 0 after SIGTERM, and synchronises all processes for it before every batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
