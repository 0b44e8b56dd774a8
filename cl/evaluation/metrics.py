"""Counting right answers and averaging them over an epoch."""

import torch
from pytorch_lightning import LightningModule
from torch import Tensor


def correct_within(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """Scalar: how many rows of `logits` [B, C] have `target` [B] among their k largest. Target -1 is never right."""
    best = logits.topk(k, dim=1).indices
    return (best == target[:, None]).any(dim=1).sum()


class EpochMeans:
    """Weighted means of an epoch, by name, kept on the device: adding never waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, weight: Tensor | int) -> None:
        """`total` is a sum over `weight` items."""
        total = total.detach().double()
        pair = torch.stack([total, weight.double() if isinstance(weight, Tensor) else total.new_full((), weight)])
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def compute(self) -> dict[str, float]:
        """The means so far; names that never had any weight are absent."""
        pairs = {name: pair.tolist() for name, pair in self._sums.items()}
        return {name: total / weight for name, (total, weight) in pairs.items() if weight > 0}

    def reset(self) -> None:
        self._sums.clear()


class MeasuredModule(LightningModule):
    """A LightningModule with one row of metrics per epoch. The only code that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.means = EpochMeans()
        self.evaluated: dict[str, float] = {}  # what callbacks measured in this epoch

    def epoch_metrics(self) -> dict[str, float]:
        """The row of this epoch so far."""
        return self.means.compute() | self.evaluated

    def on_train_epoch_start(self) -> None:
        self.means.reset()
        self.evaluated.clear()

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.epoch_metrics())

    def add_accuracy(self, prefix: str, logits: Tensor, target: Tensor) -> None:
        """Count `logits` [B, C] into `prefix`_top1, and _top5 where there are more than five classes."""
        labelled = (target >= 0).sum()
        for k in (1, 5):
            if k == 1 or logits.shape[1] > k:
                self.means.add(f"{prefix}_top{k}", correct_within(logits, target, k), labelled)
