"""Accuracies and epoch means."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cl.distributed import gather_dicts, rank, stop_together, world_size
from cl.errors import NOT_FINITE
from cl.evaluation.features import Labelled
from cl.evaluation.online.epoch_means import EpochMeans, merged
from cl.nn.finite import describe_non_finite, non_finite


def correct_within(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """Scalar: the number of rows of `logits` [B, C] with `target` [B] among their k largest; -1 is never correct."""
    predicted = logits.topk(k, dim=1).indices
    return (predicted == target[:, None]).any(dim=1).sum()


def correct_if_finite(correct: Tensor, logits: Tensor) -> Tensor:
    """A count of correct answers by `logits` [...], as float64; NaN if any logit is not finite."""
    return correct.double().where(logits.isfinite().all(), torch.nan)


def refuse_non_finite(row: Mapping[str, float], module: nn.Module, where: str) -> None:
    """Stop the run if a measured number is not finite; name it, and the weights that are not finite. On all ranks."""
    names = [name for name, value in row.items() if not math.isfinite(value)]
    if not names:
        return
    problems = non_finite(module.state_dict())
    cause = f"; {describe_non_finite(problems)}" if problems else ""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    message = f"not finite {where}: {shown}{cause}; nothing is reported. Try a lower --lr or --precision 32"
    stop_together(message, NOT_FINITE)


def format_metric(name: str, value: float) -> str:
    """An accuracy in percent, any other number with three digits."""
    return f"{100 * value:.1f} %" if "_top" in name else f"{value:.3g}"


def _nothing() -> None:
    pass


class MeasuredModule(LightningModule):
    """A LightningModule with one row of metrics per epoch; its checkpoints hold the sums of an unfinished epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.means = EpochMeans()
        # 0 if the newest optimizer step was skipped; on the module's device.
        self.step_taken = torch.ones((), dtype=torch.float64)
        # Undoes the newest optimizer step if it was not taken; set by the guard where the host does not know that.
        self.undo_step: Callable[[], None] = _nothing
        self.row: dict[str, float] = {}  # of the last finished epoch
        self.validation: list[Labelled] = []  # this process's validation batches of this epoch, for kNN

    def on_train_epoch_start(self) -> None:
        self.means.reset()
        self.validation.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"] = gather_dicts(self.means.state())  # one per rank: the order of a sum changes its bits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.means.load(merged(checkpoint["epoch_sums"][rank() :: world_size()]))

    def prepare_gradients(self, optimizer: Optimizer) -> None:
        """Change gradients once per optimizer step, before they are checked for non-finite values."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):  # which `MeasureEpoch` steps
            scheduler.step()

    def add_accuracy(self, prefix: str, logits: Tensor, target: Tensor) -> None:
        """Add the accuracy of `logits` [B, C] to `prefix`_top1, and to _top5 if there are more than five classes."""
        labelled = (target >= 0).sum()
        for k in (1, 5):
            if k == 1 or logits.shape[1] > k:
                correct = correct_if_finite(correct_within(logits, target, k), logits)
                self.means.add(f"{prefix}_top{k}", correct, labelled)


Measurement = Callable[[Any], Mapping[str, float]]  # of a MeasuredModule after its epoch; all processes call it


def epoch_means(module: MeasuredModule) -> dict[str, float]:
    """Loss and accuracies averaged over the epoch's batches."""
    return module.means.compute()


class MeasureEpoch(Callback):
    """Make the row of an epoch from the measurements, in order, then log it and step the plateau schedule.

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
        refuse_non_finite(pl_module.row, pl_module, f"after epoch {position['epoch']}, step {position['step']}")
        for logger in trainer.loggers:
            logger.log_metrics(position | pl_module.row, trainer.global_step)
        schedule = pl_module.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau) and "loss" in pl_module.row:  # else every step was skipped
            schedule.step(pl_module.row["loss"])
