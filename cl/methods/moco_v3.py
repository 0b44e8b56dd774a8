import torch
from torch import Tensor, nn

from cl.backbones.timm import freeze_patches, patch_embedding
from cl.batch import Batch
from cl.config.methods.moco_v3 import MoCoV3Config
from cl.config.programs import Pretrain
from cl.distributed import gather
from cl.losses import moco_v3_loss
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.methods.scheduled import CosineRamp
from cl.methods.teacher import Teacher
from cl.nn.heads import moco_v3_head
from cl.optim.schedules import Budget


class MoCoV3(ContrastiveModule[MoCoV3Config]):
    """Each view identifies its image among the teacher's projections of another view (arXiv 2104.02057)."""

    views_together = False
    predictor: nn.Module

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        transformer = patch_embedding(self.backbone) is not None
        freeze_patches(self.backbone)  # their large gradients are what makes the training unstable (section 4)
        outputs = self.method.proj_output_dim
        dims = self.backbone.num_features, self.method.proj_hidden_dim, outputs
        self.projector = moco_v3_head(*dims, layers=3 if transformer else 2)
        self.predictor = moco_v3_head(
            outputs, self.method.pred_hidden_dim, outputs, layers=2, last_batch_norm=transformer
        )
        self.teacher = Teacher(self.backbone, self.projector)
        self.momentum = CosineRamp(self.method.teacher_momentum, self.method.teacher_momentum_end, budget.steps)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        queries = [self.predictor(self.projector(f)) for views in features for f in views]  # V of [B, D]
        keys = self.keys(batch.views[0])
        temperature = self.method.temperature
        losses = [moco_v3_loss(queries[v], keys[g], temperature) for g, v in view_pairs(batch.views)]
        return StepOutput(2 * torch.stack(losses).mean(), features[0])  # of two views: the sum of both directions

    @torch.no_grad()
    def keys(self, views: Tensor) -> list[Tensor]:
        """The teacher's projections of all processes' full-size views, of this one's [V, B, C, H, W]: V of [W B, D]."""
        return [gather(self.teacher.projector(f)) for f in self.encode(views, self.teacher.backbone)]

    def after_step(self, taken: Tensor) -> None:
        self.teacher.update(self, self.momentum(self.step_index), taken)
