import torch
from torch import nn

from cl.batch import Batch
from cl.config.methods.simsiam import SimSiamConfig
from cl.config.programs import Pretrain
from cl.losses import negative_cosine_similarity
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.nn.heads import simsiam_predictor, simsiam_projector
from cl.optim.schedules import Budget


class SimSiam(ContrastiveModule[SimSiamConfig]):
    """Each view predicts the projection of the other, which gets no gradient (arXiv 2011.10566)."""

    views_together = False
    predictor: nn.Module

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = simsiam_projector(*dims)
        self.predictor = simsiam_predictor(self.method.proj_output_dim, self.method.pred_hidden_dim)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        z = [self.projector(f) for views in features for f in views]  # V of [B, D]
        p = [self.predictor(projection) for projection in z]
        losses = [negative_cosine_similarity(p[v], z[g]) for g, v in view_pairs(batch.views)]
        return StepOutput(torch.stack(losses).mean(), features[0])
