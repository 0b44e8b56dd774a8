"""Skip optimizer steps with a non-finite loss or gradient."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer

from cl.batch import Batch
from cl.distributed import everywhere, gather_dicts, rank, stop_together
from cl.errors import NOT_FINITE, warn
from cl.evaluation.online.metrics import MeasuredModule
from cl.methods.replicated import Replicated
from cl.optim.undo import Undo, make_state, state_tensors
from cl.run.folder.checkpoint import SaveLast, within_epoch
from cl.run.train.late_flags import LateFlags, lag_on


class ViewSums(NamedTuple):
    images: Tensor  # [B] their indices
    sums: Tensor  # [B] over all views of the image: finite if they are


class StepRecord(NamedTuple):
    """What is kept of a step until the host learns whether it was good, to name what was not finite."""

    epoch: int
    number: int
    views: Sequence[ViewSums]  # per batch
    losses: Sequence[Tensor]  # likewise
    names: Sequence[str]  # of the parameters with a gradient
    norms: Tensor  # [parameters] of their gradients


class SkipNonFinite(Callback):
    """Skips optimizer steps whose loss or gradient is not finite; more than `max_in_a_row` in a row stop the run.

    A skipped step leaves no trace: parameters, the optimizer's state, batch statistics and the epoch's sums are as they
    were. It still counts as a step of the schedule. With a GradScaler only the loss is checked: gradients overflow now
    and then by design, and the scaler skips such a step itself.

    The device decides. On a CPU the host reads that before the step, and drops the gradients of a bad one.
    On a GPU it would wait for the device: there every step is taken, undone on the device if it was bad, and the host
    learns of it two steps later.

    A run whose last epoch has no finite step stops, too: it has no loss, and its network is that of an earlier epoch.
    """

    def __init__(self, save: SaveLast, max_in_a_row: int) -> None:
        self.save = save
        self.max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._taken = LateFlags[StepRecord](lag=0)
        self._views: list[ViewSums] = []  # of this optimizer step's batches
        self._losses: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """A run that is resumed after too many skipped steps may try as many again."""
        self._flush()  # a checkpoint knows of all its steps
        return {"in_a_row": self._in_a_row if self._in_a_row <= self.max_in_a_row else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_a_row = int(state_dict["in_a_row"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lag = lag_on(pl_module.device)
        self._taken = LateFlags[StepRecord](lag)
        self._undoes = lag > 0
        self._parameters = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        tensors = _buffers(pl_module)
        if self._undoes:
            for optimizer in trainer.optimizers:
                make_state(optimizer)
                tensors += state_tensors(optimizer)
        self._undo = Undo(tensors)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        assert isinstance(pl_module, MeasuredModule)
        if not self._views:
            self._undo.save()
            self._means = pl_module.means.copy()
        wide = torch.promote_types(batch.views[0].dtype, torch.float32)  # sums of an image overflow float16
        sums = [views.sum(dim=(0, 2, 3, 4), dtype=wide) for views in batch.views]
        self._views.append(ViewSums(batch.index, torch.stack(sums).sum(dim=0)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, MeasuredModule)
        record = self._record(trainer)
        gradients_are_finite = record.norms.sum().isfinite()  # equal on all processes
        losses_are_finite = everywhere(torch.stack(self._losses).sum().isfinite())
        both = gradients_are_finite & losses_are_finite
        taken = losses_are_finite if _has_grad_scaler(trainer) else both
        pl_module.step_taken = both.double()
        self._taken.add(record, taken)
        if self._undoes:
            pl_module.undo_step = lambda: self._restore_unless(taken, pl_module)
        for past, was_taken in self._taken.due():
            if not was_taken and not self._undoes:
                self._drop(pl_module, taken)
            self._count(past, was_taken)
        self._views = []
        self._losses = []

    def _record(self, trainer: Trainer) -> StepRecord:
        named = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        return StepRecord(
            epoch=trainer.current_epoch + 1,
            number=trainer.global_step + 1,
            views=self._views,
            losses=self._losses,
            names=[name for name, _ in named],
            norms=torch.stack(torch._foreach_norm([gradient for _, gradient in named])),
        )

    def _drop(self, module: MeasuredModule, taken: Tensor) -> None:
        for _, parameter in self._parameters:
            parameter.grad = None
        self._restore_unless(taken, module)

    def _restore_unless(self, taken: Tensor, module: MeasuredModule) -> None:
        self._undo.undo_unless(taken)
        module.means.restore_unless(taken, self._means)

    def _count(self, step: StepRecord, was_taken: bool) -> None:
        if was_taken:
            if self._in_a_row <= self.max_in_a_row:  # else the run stops, though a step after those was good
                self._in_a_row = 0
            return
        self._in_a_row += 1
        causes = gather_dicts({"cause": first_non_finite(step)})
        if rank() == 0:
            (_, cause) = min(per_rank["cause"] for per_rank in causes)
            warn(f"epoch {step.epoch}, step {step.number} skipped: {cause}")

    def _flush(self) -> None:
        for step, was_taken in self._taken.due(everything=True):
            self._count(step, was_taken)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush()

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
        stop_together(message, NOT_FINITE)


def _buffers(module: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass may change; what `Replicated` modules hold changes only after a step."""
    kept = {id(b) for part in module.modules() if isinstance(part, Replicated) for b in part.buffers(recurse=False)}
    return [buffer for buffer in module.buffers() if id(buffer) not in kept]


def _has_grad_scaler(trainer: Trainer) -> bool:
    return isinstance(trainer.precision_plugin, MixedPrecision) and trainer.precision_plugin.scaler is not None


def first_non_finite(step: StepRecord) -> tuple[int, str]:
    """The first non-finite tensor in the order of a step: its position in that order, and a description."""
    for images, sums in step.views:
        if not sums.isfinite().all():
            return 0, f"the views of image {', '.join(map(str, images[~sums.isfinite()].tolist()))} are not finite"
    for loss in step.losses:
        if not loss.isfinite():
            return 1, f"the loss is {float(loss):g}"
    for name, norm in zip(step.names, step.norms.tolist(), strict=True):
        if not math.isfinite(norm):
            return 2, f"the gradient of {name} is not finite"
    return 3, "finite on this process"
