"""Counting right answers and averaging them over an epoch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cl.distributed import gather_dicts, rank
from cl.evaluation.features import Labelled


def correct_within(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """Scalar: how many rows of `logits` [B, C] have `target` [B] among their k largest. Target -1 is never right."""
    best = logits.topk(k, dim=1).indices
    return (best == target[:, None]).any(dim=1).sum()


def format_metric(name: str, value: float) -> str:
    """An accuracy in percent, anything else with three digits."""
    return f"{100 * value:.1f} %" if "_top" in name else f"{value:.3g}"


class EpochMeans:
    """Weighted means of an epoch, by name, kept on the device: adding does not wait for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, weight: Tensor | int) -> None:
        """`total` is a sum over `weight` items."""
        total = total.detach().double()
        weight = weight.double() if isinstance(weight, Tensor) else total.new_full((), weight)
        added = torch.stack([total, weight])
        self._sums[name] = self._sums[name].to(added) + added if name in self._sums else added

    def compute(self, all_processes: bool = True) -> dict[str, float]:
        """The means so far, of all processes (each has to call this) or of this one; without names of no weight."""
        sums: dict[str, tuple[float, float]] = {}
        for each in gather_dicts(self.state()) if all_processes else [self.state()]:
            for name, (total, weight) in each.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + total, before[1] + weight
        return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}

    def state(self) -> dict[str, tuple[float, float]]:
        """Sum and weight of each name, of this process."""
        return {name: tuple(added.tolist()) for name, added in self._sums.items()}

    def copy(self) -> dict[str, Tensor]:
        return dict(self._sums)  # sums are replaced, never changed

    def restore(self, sums: dict[str, Tensor]) -> None:
        self._sums = sums

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: torch.tensor(added, dtype=torch.float64) for name, added in state.items()}

    def reset(self) -> None:
        self._sums.clear()


class MeasuredModule(LightningModule):
    """A LightningModule with one row of metrics per epoch; its checkpoints hold the sums of an unfinished epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.means = EpochMeans()
        self.row: dict[str, float] = {}  # of the last epoch that ended
        self.validation: list[Labelled] = []  # this epoch's, of this process, batch by batch; for kNN

    def on_train_epoch_start(self) -> None:
        self.means.reset()
        self.validation.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"] = gather_dicts(self.means.state())  # apart: the order of a sum changes its bits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.means.load(checkpoint["epoch_sums"][rank()])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):  # `MeasureEpoch` steps that one
            scheduler.step()

    def add_accuracy(self, prefix: str, logits: Tensor, target: Tensor) -> None:
        """Count `logits` [B, C] into `prefix`_top1, and _top5 where there are more than five classes."""
        labelled = (target >= 0).sum()
        for k in (1, 5):
            if k == 1 or logits.shape[1] > k:
                self.means.add(f"{prefix}_top{k}", correct_within(logits, target, k), labelled)


Measurement = Callable[[Any], Mapping[str, float]]  # of a MeasuredModule whose epoch has ended; all processes call it


def epoch_means(module: MeasuredModule) -> dict[str, float]:
    """Loss and accuracies that were counted batch by batch."""
    return module.means.compute()


class MeasureEpoch(Callback):
    """Makes the row of an epoch: every measurement in order. Then the loggers and the plateau schedule get it.

    Lightning would log and step the schedule after the checkpoint is written; a resumed run would miss both.
    """

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.measurements = measurements

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuredModule)
        pl_module.row = {}
        for measure in self.measurements:
            pl_module.row |= measure(pl_module)
        position = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        for logger in trainer.loggers:
            logger.log_metrics(position | pl_module.row, trainer.global_step)
        schedule = pl_module.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(pl_module.row["loss"])
