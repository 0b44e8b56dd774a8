"""A loss that is not finite costs one step, not the run."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from cl.batch import Batch
from cl.distributed import gather_dicts, on_any_rank, rank
from cl.errors import NOT_FINITE, Stopped
from cl.evaluation.online.metrics import MeasuredModule
from cl.run.folder.checkpoint import SaveLast, within_epoch

Finite = tuple[Tensor, Tensor]  # indices [B] of images, and whether all their views are finite [B]


class SkipNonFinite(Callback):
    """Leaves out optimizer steps whose loss or gradient is not finite; more than `most` in a row stop the run.

    Nothing of such a step stays: gradients go, and batch statistics and the epoch's sums are put back. It counts as a
    step of the schedule. Where a GradScaler looks at the gradients, which overflow now and then, only the loss counts.
    """

    def __init__(self, save: SaveLast, most: int) -> None:
        self.save = save
        self.most = most
        self._in_a_row = 0
        self._views: list[Finite] = []  # of the batches of this optimizer step, which themselves would fill the memory
        self._losses: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._buffers = list(pl_module.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        assert isinstance(pl_module, MeasuredModule)
        if not self._views:
            _copy(self._kept, self._buffers)
            self._sums = pl_module.means.copy()
        finite = [views.isfinite().all(dim=(0, 2, 3, 4)) for views in batch.views]
        self._views.append((batch.index, torch.stack(finite).all(dim=0)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, MeasuredModule)
        looked_at = list(self._losses)
        if not _scales(trainer):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            looked_at.append(torch.stack(torch._foreach_norm(gradients)).sum())
        bad = not torch.stack(looked_at).sum().isfinite().item()
        if on_any_rank(bad):
            self._skip(trainer, pl_module)
        else:
            self._in_a_row = 0
        self._views = []
        self._losses = []

    def _skip(self, trainer: Trainer, module: MeasuredModule) -> None:
        said = gather_dicts({"": first_non_finite(self._views, self._losses, module)})
        if rank() == 0:
            place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}"
            print(f"warning: {place} is left out: {min(each[''] for each in said)[1]}", file=sys.stderr, flush=True)
        for parameter in module.parameters():
            parameter.grad = None
        _copy(self._buffers, self._kept)
        module.means.restore(self._sums)
        self._in_a_row += 1

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        if self._in_a_row > self.most and not self._views and within_epoch(trainer):
            self.save.save(trainer)
            self._stop()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._in_a_row > self.most:  # after the last step of an epoch, whose checkpoint is written
            self._stop()

    def _stop(self) -> None:
        raise Stopped(
            f"{self._in_a_row} steps in a row were not finite; the last finite state is saved. With a lower --lr or "
            "--precision 32 it may not happen; --max_skipped_steps allows more"
            if rank() == 0
            else "",
            NOT_FINITE,
        )


def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    if to:  # a vision transformer has none
        torch._foreach_copy_(to, source)


def _scales(trainer: Trainer) -> bool:
    return isinstance(trainer.precision_plugin, MixedPrecision) and trainer.precision_plugin.scaler is not None


def first_non_finite(views: Sequence[Finite], losses: Sequence[Tensor], module: LightningModule) -> tuple[int, str]:
    """What was not finite, the earliest in the order of a step: how late it is, and its name."""
    for index, finite in views:
        if not finite.all():
            return 0, f"the views of image {', '.join(map(str, index[~finite].tolist()))} are not finite"
    for loss in losses:
        if not loss.isfinite():
            return 1, f"the loss is {float(loss):g}"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return 2, f"the gradient of {name} is not finite"
    return 3, "finite on this process"
