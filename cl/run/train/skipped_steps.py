"""Skip optimizer steps with a non-finite loss or gradient."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class FiniteViews(NamedTuple):
    images: Tensor  # [B] their indices
    finite: Tensor  # [B] bool: whether all views of the image are


class SkipNonFinite(Callback):
    """Skips optimizer steps whose loss or gradient is not finite; more than `max_in_a_row` in a row stop the run.

    A skipped step leaves no trace: gradients are dropped, batch statistics and the epoch's sums are restored. It still
    counts as a step of the schedule. With a GradScaler only the loss is checked: gradients overflow now and then by
    design, and the scaler skips such a step itself.

    A run whose last epoch has no finite step stops, too: it has no loss, and its network is that of an earlier epoch.
    """

    def __init__(self, save: SaveLast, max_in_a_row: int) -> None:
        self.save = save
        self.max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._views: list[
            FiniteViews
        ] = []  # per batch of this optimizer step; keeping the views themselves takes memory
        self._losses: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._saved_buffers: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """A run that is resumed after too many skipped steps may try as many again."""
        return {"in_a_row": self._in_a_row if self._in_a_row <= self.max_in_a_row else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_a_row = int(state_dict["in_a_row"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._buffers = list(pl_module.buffers())
        self._saved_buffers = [buffer.clone() for buffer in self._buffers]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        assert isinstance(pl_module, MeasuredModule)
        if not self._views:
            _copy(self._buffers, to=self._saved_buffers)
            self._saved_means = pl_module.means.copy()
        finite = [views.isfinite().all(dim=(0, 2, 3, 4)) for views in batch.views]
        self._views.append(FiniteViews(batch.index, torch.stack(finite).all(dim=0)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, MeasuredModule)
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)).sum()  # equal on all processes
        checked = self._losses if _has_grad_scaler(trainer) else [*self._losses, norms]
        finite = bool(torch.stack(checked).sum().isfinite().item())
        skipped = on_any_rank(not finite)
        pl_module.step_taken = norms.isfinite().double() * (not skipped)
        if skipped:
            self._skip(trainer, pl_module)
        else:
            self._in_a_row = 0
        self._views = []
        self._losses = []

    def _skip(self, trainer: Trainer, module: MeasuredModule) -> None:
        causes = gather_dicts({"cause": first_non_finite(self._views, self._losses, module)})
        if rank() == 0:
            step = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}"
            (_, cause) = min(per_rank["cause"] for per_rank in causes)
            print(f"warning: {step} skipped: {cause}", file=sys.stderr, flush=True)
        for parameter in module.parameters():
            parameter.grad = None
        _copy(self._saved_buffers, to=self._buffers)
        module.means.restore(self._saved_means)
        self._in_a_row += 1

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        if self._in_a_row > self.max_in_a_row and not self._views and within_epoch(trainer):
            self.save.save(trainer)
            self._stop()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._in_a_row > self.max_in_a_row:  # after the last step of an epoch, which has just been saved
            self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuredModule)
        if self._in_a_row > self.max_in_a_row or "loss" not in pl_module.row:
            self._stop()

    def _stop(self) -> None:
        count = self._in_a_row
        skipped = f"{count} steps in a row were not finite" if count > 1 else "the last step was not finite"
        message = (
            f"{skipped}; the last finite state is saved. Try a lower --lr or --precision 32, or allow more with "
            "--max_skipped_steps"
        )
        raise Stopped(message if rank() == 0 else "", NOT_FINITE)


def _copy(source: list[Tensor], to: list[Tensor]) -> None:
    if to:  # a vision transformer has no buffers
        torch._foreach_copy_(to, source)


def _has_grad_scaler(trainer: Trainer) -> bool:
    return isinstance(trainer.precision_plugin, MixedPrecision) and trainer.precision_plugin.scaler is not None


def first_non_finite(
    views: Sequence[FiniteViews], losses: Sequence[Tensor], module: LightningModule
) -> tuple[int, str]:
    """The first non-finite tensor in the order of a step: its position in that order, and a description."""
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
