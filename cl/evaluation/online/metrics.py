"""Counting right answers and averaging them over an epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cl.distributed import every_dict, rank


def correct_within(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """Scalar: how many rows of `logits` [B, C] have `target` [B] among their k largest. Target -1 is never right."""
    best = logits.topk(k, dim=1).indices
    return (best == target[:, None]).any(dim=1).sum()


def shown_metric(name: str, value: float) -> str:
    """An accuracy in percent, anything else with three digits."""
    return f"{100 * value:.1f} %" if "_top" in name else f"{value:.3g}"


class EpochMeans:
    """Weighted means of an epoch, by name, kept on the device: adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, weight: Tensor | int) -> None:
        """`total` is a sum over `weight` items."""
        total = total.detach().double()
        pair = torch.stack([total, weight.double() if isinstance(weight, Tensor) else total.new_full((), weight)])
        self._sums[name] = self._sums[name].to(pair) + pair if name in self._sums else pair

    def compute(self, everywhere: bool) -> dict[str, float]:
        """The means so far, of all processes or of this one; names that never had any weight are absent."""
        sums: dict[str, tuple[float, float]] = {}
        for each in every_dict(self.state()) if everywhere else [self.state()]:
            for name, (total, weight) in each.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + total, before[1] + weight
        return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}

    def state(self) -> dict[str, tuple[float, float]]:
        """Sum and weight of each name, of this process."""
        return {name: tuple(pair.tolist()) for name, pair in self._sums.items()}

    def copy(self) -> dict[str, Tensor]:
        return dict(self._sums)  # sums are replaced, never changed

    def restore(self, sums: dict[str, Tensor]) -> None:
        self._sums = sums

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: torch.tensor(pair, dtype=torch.float64) for name, pair in state.items()}

    def reset(self) -> None:
        self._sums.clear()


class MeasuredModule(LightningModule):
    """A LightningModule with one row of metrics per epoch, which its checkpoints know. The only code that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.means = EpochMeans()
        self.evaluated: dict[str, float] = {}  # what callbacks measured in this epoch
        self.remarks: list[str] = []  # what they have to say about it
        self.row: dict[str, float] = {}  # of the last epoch that ended

    def epoch_metrics(self, everywhere: bool = True) -> dict[str, float]:
        """The row of this epoch so far; all processes have to ask for it, or one for its own part."""
        return self.means.compute(everywhere) | self.evaluated

    def on_train_epoch_start(self) -> None:
        self.means.reset()
        self.evaluated.clear()
        self.remarks.clear()

    def on_train_epoch_end(self) -> None:
        # Rows and the plateau's step come here, before the checkpoint is written; Lightning has them after it.
        self.row, schedule = self.epoch_metrics(), self.lr_schedulers()
        done = {"epoch": self.trainer.current_epoch + 1, "step": self.trainer.global_step}
        for logger in self.loggers:
            logger.log_metrics(done | self.row, done["step"])
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(self.row["loss"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"] = every_dict(self.means.state())  # apart: in another order sums round to other bits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.means.load(checkpoint["epoch_sums"][rank()])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def add_accuracy(self, prefix: str, logits: Tensor, target: Tensor) -> None:
        """Count `logits` [B, C] into `prefix`_top1, and _top5 where there are more than five classes."""
        labelled = (target >= 0).sum()
        for k in (1, 5):
            if k == 1 or logits.shape[1] > k:
                self.means.add(f"{prefix}_top{k}", correct_within(logits, target, k), labelled)
