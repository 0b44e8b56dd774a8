"""Stopping well: a signal sets a flag, and after the optimizer's step all processes save and stop together.

SIGTERM and SIGUSR1 (time is nearly up) end a run with exit code 75, Ctrl-C with 130; a second signal ends it at once.
Lightning's own handler saves and broadcasts within the handler, whatever the process is at (Lightning#21406).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cl.distributed import broadcast_from_rank_zero, on_any_rank, rank
from cl.errors import INTERRUPTED, RESUMABLE, Stopped
from cl.run.folder.checkpoint import SaveLast, within_epoch
from cl.run.start.signal_forwarding import STOP_SIGNALS

SAME = 1.0  # seconds within which a signal is the one before: a job's comes directly and from the launcher
EVERY = 16  # steps between questions on several GPUs, where the answer waits for the device


class StopOnSignal(Callback):
    """Hears signals while the trainer fits, and stops it after a step with a checkpoint, or with that of an epoch."""

    def __init__(self, save: SaveLast) -> None:
        self.save = save
        self._heard = 0  # the number of a signal that has arrived
        self._when = 0.0  # when it arrived
        self._before: dict[int, Any] = {}
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._before = {number: signal.signal(number, self._hear) for number in STOP_SIGNALS}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard and time.monotonic() - self._when > SAME:
            os._exit(128 + number)
        if not self._heard:
            self._heard = number
            self._when = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if on_any_rank(self._heard > 0):
            self._stop(trainer)

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        every = EVERY if trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda" else 1
        if stepped and self._step % every == 0 and within_epoch(trainer) and on_any_rank(self._heard > 0):
            self.save.save(trainer)
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        interrupted = on_any_rank(self._heard == signal.SIGINT)
        requeued = on_any_rank(self._heard == signal.SIGUSR1) and broadcast_from_rank_zero(requeue)
        name = "Ctrl-C" if interrupted else signal.Signals(self._heard or signal.SIGTERM).name
        rest = "the job is queued again" if requeued else f"go on with --resume_training_from {self.save.path.parent}"
        said = f"{name} after step {trainer.global_step}" + f", saved; {rest}" * self.save.path.exists()
        raise Stopped(said if rank() == 0 else "", INTERRUPTED if interrupted else RESUMABLE)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not self._heard:  # else the launcher's copy may still come, and must not end the way out
            self.on_fit_end(trainer, pl_module)


def requeue() -> bool:
    """Put a SLURM job back into the queue. SIGUSR1 wants it: SIGTERM is scancel's, or SLURM's, which does it itself."""
    job = os.environ.get("SLURM_JOB_ID")
    scontrol = shutil.which("scontrol")
    if job is None or scontrol is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True)
    if done.returncode:
        print(f"warning: scontrol requeue {job}: {' '.join(done.stderr.split())}", file=sys.stderr, flush=True)
    return done.returncode == 0


def without_lightnings_handlers(trainer: Trainer) -> None:
    """Lightning answers SIGTERM by ending with exit code 0, and asks all processes for it before every batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
