import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.config.methods.byol import BYOLConfig
from cl.config.programs import Pretrain
from cl.losses import byol_loss
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.methods.scheduled import CosineRamp
from cl.methods.teacher import Teacher
from cl.nn.heads import byol_head
from cl.optim.schedules import Budget


class BYOL(ContrastiveModule[BYOLConfig]):
    """Each view predicts the projection of another view by a slow copy of the network (arXiv 2006.07733)."""

    views_together = False
    predictor: nn.Module

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        outputs = self.method.proj_output_dim
        self.projector = byol_head(self.backbone.num_features, self.method.proj_hidden_dim, outputs)
        self.predictor = byol_head(outputs, self.method.pred_hidden_dim, outputs)
        self.teacher = Teacher(self.backbone, self.projector)
        self.momentum = CosineRamp(self.method.teacher_momentum, self.method.teacher_momentum_end, budget.steps)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        predictions = [self.predictor(self.projector(f)) for views in features for f in views]  # V of [B, D]
        targets = self.targets(batch.views[0])
        losses = [byol_loss(predictions[v], targets[g]) for g, v in view_pairs(batch.views)]
        return StepOutput(2 * torch.stack(losses).mean(), features[0])  # of two views: the sum of both directions

    @torch.no_grad()
    def targets(self, views: Tensor) -> list[Tensor]:
        """The teacher's projections of the full-size views [V, B, C, H, W]: V of [B, D]."""
        return [self.teacher.projector(f) for f in self.encode(views, self.teacher.backbone)]

    def after_step(self, taken: Tensor) -> None:
        self.teacher.update(self, self.momentum(self.step_index), taken)
