"""Accuracies and epoch means."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cl.distributed import gather_dicts, rank
from cl.errors import NOT_FINITE, Stopped
from cl.evaluation.features import Labelled
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
    raise Stopped(message if rank() == 0 else "", NOT_FINITE)


def format_metric(name: str, value: float) -> str:
    """An accuracy in percent, any other number with three digits."""
    return f"{100 * value:.1f} %" if "_top" in name else f"{value:.3g}"


class EpochMeans:
    """Weighted means over an epoch, by name; sums stay on the device, so that adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, weight: Tensor | int) -> None:
        """`total` is a sum over `weight` items."""
        total = total.detach().double()
        weight = weight.double() if isinstance(weight, Tensor) else total.new_full((), weight)
        pair = torch.stack([total, weight])
        self._sums[name] = self._sums[name].to(pair) + pair if name in self._sums else pair

    def compute(self, all_processes: bool = True) -> dict[str, float]:
        """The means so far, of all processes (each must call this) or of this one; names without weight are skipped."""
        sums: dict[str, tuple[float, float]] = {}
        for state in gather_dicts(self.state()) if all_processes else [self.state()]:
            for name, (total, weight) in state.items():
                previous = sums.get(name, (0.0, 0.0))
                sums[name] = previous[0] + total, previous[1] + weight
        return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}

    def state(self) -> dict[str, tuple[float, float]]:
        """Sum and weight by name, for this process."""
        return {name: tuple(pair.tolist()) for name, pair in self._sums.items()}

    def copy(self) -> dict[str, Tensor]:
        return dict(self._sums)  # a shallow copy will do: `add` never changes a tensor in place

    def restore(self, sums: dict[str, Tensor]) -> None:
        self._sums = sums

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: torch.tensor(pair, dtype=torch.float64) for name, pair in state.items()}

    def reset(self) -> None:
        self._sums.clear()


class MeasuredModule(LightningModule):
    """A LightningModule with one row of metrics per epoch; its checkpoints hold the sums of an unfinished epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.means = EpochMeans()
        # 0 if the newest optimizer step was skipped; on the module's device.
        self.step_taken = torch.ones((), dtype=torch.float64)
        self.row: dict[str, float] = {}  # of the last finished epoch
        self.validation: list[Labelled] = []  # this process's validation batches of this epoch, for kNN

    def on_train_epoch_start(self) -> None:
        self.means.reset()
        self.validation.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"] = gather_dicts(self.means.state())  # one per rank: the order of a sum changes its bits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.means.load(checkpoint["epoch_sums"][rank()])

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
