"""Linear evaluation: how well a linear classifier does on frozen features."""

from typing import Any, Self

import torch
from torch import Tensor

from cl.backbones import Backbone
from cl.batch import Batch
from cl.config.optim import OptimConfig
from cl.evaluation.metrics import MeasuredModule
from cl.evaluation.probe import probe_loss
from cl.nn.heads import linear_head
from cl.optim import optimizer_of, with_schedule
from cl.optim.groups import Group
from cl.optim.schedules import Budget, Schedule


class LinearEvaluation(MeasuredModule):
    """A linear head on a backbone that stays as it is: no gradient, and batch norm in evaluation mode throughout."""

    def __init__(self, backbone: Backbone, classes: int, optim: OptimConfig, budget: Budget) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()  # Lightning keeps the modes that it finds
        self.head = linear_head(backbone.num_features, classes)
        self.optim, self.budget = optim, budget

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, C]."""
        with torch.no_grad():
            features = self.backbone(images)
        return self.head(features)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        logits = self(batch.views[0][0])
        loss, total = probe_loss(logits, batch.target)
        self.means.add("loss", total, (batch.target >= 0).sum())
        self.add_accuracy("offline_linear/train", logits, batch.target)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        self.add_accuracy("offline_linear/val", self(batch.views[0][0]), batch.target)

    def configure_optimizers(self) -> Any:
        lr = self.optim.scaled_lr(self.budget.global_batch)
        group = Group(list(self.head.parameters()), lr, self.optim.weight_decay)
        return with_schedule(optimizer_of(self.optim, [group]), Schedule.of(self.optim, self.budget))
