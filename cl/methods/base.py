from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from cl.backbones import build_backbone
from cl.batch import Batch
from cl.config.methods import MethodConfig
from cl.config.programs import Pretrain
from cl.distributed import rank
from cl.evaluation.features import Labelled
from cl.evaluation.online.metrics import MeasuredModule
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.nn.batch_norm import frozen_statistics
from cl.nn.heads import linear_head
from cl.optim import build_optimizer, with_schedule
from cl.optim.groups import Group
from cl.optim.schedules import Budget, Schedule

M = TypeVar("M", bound=MethodConfig)


class StepOutput(NamedTuple):
    loss: Tensor  # scalar, mean over this process's images
    metrics: dict[str, Tensor] = {}  # scalars, also means over this process's images; the base logs them


def view_pairs(features: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """All pairs (g, v), g != v, of a full-size view g as the target and any view v, numbered in order.

    Small crops are never targets (SwAV, arXiv 2006.09882, section 3.2). Two full-size views give (0, 1) and (1, 0):
    the two terms of a symmetric loss.
    """
    views = sum(map(len, features))
    return [(g, v) for g in range(len(features[0])) for v in range(views) if v != g]


class ContrastiveModule(MeasuredModule, Generic[M]):
    """Backbone, online linear head, optimizer, schedule. A method adds its heads and returns its loss from `step`."""

    views_together: ClassVar[bool] = True  # one forward pass for all views of a resolution, else one per view
    projector: nn.Module  # set by the method; diagnostics use its outputs

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__()
        self.config = config
        self.budget = budget
        self.method = cast(M, config.method)
        views = config.views
        small_crops = {"multicrop with --small_crop_size": views.small_crop_size} if views.multicrop else {}
        self.backbone = build_backbone(config.backbone, views.crop_size, config.data.in_channels, small_crops)
        self.online_head = linear_head(self.backbone.num_features, classes) if classes else None
        self.predictor: nn.Module | None = None  # set by a method that has one
        self.last_lr = 0.0  # of the last optimizer step

    @abstractmethod
    def step(self, features: tuple[Tensor, ...], batch: Batch) -> StepOutput:
        """The method's loss from the features of each resolution, [V_r, B, F]."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> features [B, F]."""
        return self.backbone(images)

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> projections [B, D]."""
        return self.projector(self(images))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        features = tuple(self._encode(views) for views in batch.views)
        output = self.step(features, batch)
        for name, value in ({"loss": output.loss} | output.metrics).items():
            self.means.add(name, value * len(batch.index), len(batch.index))
        if self.online_head is None:
            return output.loss
        return output.loss + self._online_loss(self.online_head, features[0].detach(), batch.target)

    def _encode(self, views: Tensor) -> Tensor:
        """[V, B, C, H, W] -> [V, B, F]; under --exact_negatives one batch at a time, recomputed in backward."""
        chunks = views.chunk(self.config.batches_per_loss, dim=1)
        if len(chunks) == 1:
            return self._forward_views(views)
        features = [
            checkpoint(self._forward_views, chunk, use_reentrant=False, context_fn=self._recomputation_contexts)
            for chunk in chunks
        ]
        return torch.cat(features, dim=1)

    def _recomputation_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For the forward pass and its recomputation, which must not update the running statistics again."""
        return nullcontext(), frozen_statistics(self.backbone)

    def _forward_views(self, views: Tensor) -> Tensor:
        """[V, B, C, H, W] -> [V, B, F]; with `views_together`, batch norm sees all views of a resolution together."""
        if not self.views_together:
            return torch.stack([self(view) for view in views])
        features = self(rearrange(views, "v b c h w -> (v b) c h w"))
        return rearrange(features, "(v b) f -> v b f", v=len(views))

    def _online_loss(self, head: nn.Linear, features: Tensor, target: Tensor) -> Tensor:
        """The online head's loss on the detached features [V, B, F] of the full-size views."""
        logits = head(rearrange(features, "v b f -> (v b) f"))
        target = target.repeat(len(features))
        loss, total = labelled_cross_entropy(logits, target)
        self.means.add("online_linear/loss", total, (target >= 0).sum())
        self.add_accuracy("online_linear/train", logits, target)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        features = self(batch.views[0][0])
        self.validation.append(Labelled(features, batch.target))
        if self.online_head is not None:
            self.add_accuracy("online_linear/val", self.online_head(features), batch.target)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Randomness inside the network (dropout) depends only on seed, step and rank: a resumed run draws the same.
        step_seed = (self.config.run.seed * 1_000_003 + self.trainer.current_epoch) * 1_000_003 + batch_idx
        torch.manual_seed((step_seed * 65_537 + rank()) % 2**63)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.last_lr = float(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optim = self.config.optim
        batch = self.budget.global_batch
        predictor = list(self.predictor.parameters()) if self.predictor is not None else []
        online = list(self.online_head.parameters()) if self.online_head is not None else []
        separate = {id(p) for p in predictor + online}
        lr = optim.scaled_lr(batch)
        decay = optim.weight_decay
        groups = [
            Group([p for p in self.parameters() if id(p) not in separate], lr, decay),
            Group(predictor, lr, decay, scheduled=optim.lr_scheduler_for_pred_head),
            Group(online, optim.scaled_classifier_lr(batch), weight_decay=0.0, adapted=False),
        ]
        optimizer = build_optimizer(optim, [group for group in groups if group.parameters])
        return with_schedule(optimizer, Schedule.of(optim, self.budget))
