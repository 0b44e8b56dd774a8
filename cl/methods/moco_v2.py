import torch
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.moco_v2 import MoCoV2Config
from cl.config.programs import Pretrain
from cl.losses import moco_v2_loss
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.methods.queue import Queue, directions, random_directions
from cl.methods.scheduled import CosineRamp
from cl.methods.teacher import Teacher
from cl.nn.heads import simclr_projector
from cl.optim.schedules import Budget


class MoCoV2(ContrastiveModule[MoCoV2Config]):
    """Each view identifies its image's other view, by a teacher, among views of former images (arXiv 2003.04297)."""

    views_together = False

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        size, dim = self.method.queue_size, self.method.proj_output_dim
        features, hidden = self.backbone.num_features, self.method.proj_hidden_dim
        self.projector = simclr_projector(features, hidden, dim, self.method.proj_batch_norm)
        self.teacher = Teacher(self.backbone, self.projector)
        self.momentum = CosineRamp(self.method.teacher_momentum, self.method.teacher_momentum_end, budget.steps)
        views = config.views.n_crops
        start = random_directions(size * views, dim, config.run.seed)
        self.queue = Queue(start.view(size, views, dim))  # a queue of each full-size view's keys

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        queries = [self.projector(f) for views in features for f in views]  # V of [B, D]
        keys = self.keys(batch.views[0])
        losses = [
            moco_v2_loss(queries[v], keys[g], self.queue.rows[:, g], self.method.temperature)
            for g, v in view_pairs(batch.views)
        ]
        self.queue.add(torch.stack(keys, dim=1))
        return StepOutput(torch.stack(losses).mean(), features[0])

    @torch.no_grad()
    def keys(self, views: Tensor) -> list[Tensor]:
        """The teacher's projections of the full-size views [V, B, C, H, W], as unit rows: V of [B, D]."""
        return [directions(self.teacher.projector(f)) for f in self.encode(views, self.teacher.backbone)]

    def after_step(self, taken: Tensor) -> None:
        self.teacher.update(self, self.momentum(self.step_index), taken)
        self.queue.commit(taken)
