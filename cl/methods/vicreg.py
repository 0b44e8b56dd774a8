import torch

from cl.batch import Batch
from cl.config.methods.vicreg import VICRegConfig
from cl.config.programs import Pretrain
from cl.losses import vicreg_terms
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.nn.heads import barlow_twins_projector
from cl.optim.schedules import Budget


class VICReg(ContrastiveModule[VICRegConfig]):
    """Views agree, each dimension varies, and no two dimensions are correlated (arXiv 2105.04906)."""

    views_together = False

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = barlow_twins_projector(*dims)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        z = torch.stack([self.projector(f) for views in features for f in views])  # [V, B, D]
        terms = vicreg_terms(z, view_pairs(batch.views))
        weights = self.method
        loss = (
            weights.sim_weight * terms.invariance
            + weights.var_weight * terms.variance
            + weights.cov_weight * terms.covariance
        )
        return StepOutput(loss, features[0], terms._asdict())
