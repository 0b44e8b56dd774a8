"""Progress output: a bar on a terminal, one line per epoch, and timing.csv."""

import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from cl.batch import Batch
from cl.evaluation.online.metrics import MeasuredModule, format_metric
from cl.run.folder.tables import Table
from cl.run.train.step_gaps import StepGaps, synchronize

SHORT_NAMES = {  # columns of metrics.csv -> names in the progress line
    "online_linear/train_top1": "online",
    "online_linear/val_top1": "val",
    "knn/val_top1": "kNN",
    "health/rank": "rank",
    "offline_linear/train_top1": "train",
    "offline_linear/val_top1": "val",
    "offline_linear/held_out_top1": "held out",
    "finetuned/train_top1": "train",
    "finetuned/val_top1": "val",
}
REFRESH = 0.5  # seconds between reads of the loss: each read waits for the device


class Progress(Callback):
    """Times each epoch, prints its metrics, and appends its times to timing.csv."""

    def __init__(self, folder: Path) -> None:
        self.timing = Table(folder / "timing.csv")
        self._bar = tqdm(disable=True)

    @property
    def images_per_second(self) -> float:
        """The median over epochs; 0 on ranks other than 0, which do not write timing.csv."""
        speeds = [float(row["images_per_second"]) for row in self.timing.rows]
        return statistics.median(speeds) if speeds else 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(trainer, pl_module)  # a run that resumes within an epoch skips on_train_epoch_start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open(trainer, pl_module)

    def _open(self, trainer: Trainer, module: LightningModule) -> None:
        self._images = 0
        self._gaps = StepGaps(module.device)
        self._start = time.perf_counter()
        self._batch_end = self._start
        self._refreshed = self._start
        self._bar.close()
        self._bar = tqdm(
            initial=trainer.fit_loop.epoch_loop.batch_progress.current.ready,
            total=int(trainer.num_training_batches),
            desc=self._title(trainer),
            leave=False,
            unit="step",
            disable=not (trainer.is_global_zero and sys.stdout.isatty()),
            file=sys.stdout,
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._gaps.step_starts()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.index) * trainer.world_size
        self._gaps.step_ended()
        if trainer.is_last_batch or trainer.should_stop:
            synchronize(pl_module.device)  # the host is ahead of a GPU, whose steps are timed
        self._batch_end = time.perf_counter()
        assert isinstance(pl_module, MeasuredModule)
        if not self._bar.disable and self._batch_end - self._refreshed > REFRESH:
            self._bar.set_postfix_str(self._line(pl_module.means.compute(all_processes=False)), refresh=False)
            self._refreshed = self._batch_end
        self._bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuredModule)
        self._bar.close()
        if not trainer.is_global_zero:
            return
        print(f"{self._title(trainer)}  {self._line(pl_module.row)}", flush=True)
        training_seconds = self._batch_end - self._start
        self.timing.append(
            {
                "epoch": trainer.current_epoch + 1,
                "images_per_second": self._images / training_seconds,
                "seconds": time.perf_counter() - self._start,
                "training_seconds": training_seconds,
                "waiting_share": self._gaps.seconds() / training_seconds,
            }
        )

    def _title(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"

    def _line(self, metrics: Mapping[str, float]) -> str:
        speed = self._images / (self._batch_end - self._start)
        names = {name: short for name, short in SHORT_NAMES.items() if name in metrics}
        measured = [f"{short} {format_metric(name, metrics[name])}" for name, short in names.items()]
        loss = f"loss {metrics['loss']:.3f}" if "loss" in metrics else "no finite step"
        return "  ".join([loss, *measured, f"{speed:.0f} images/s"])
