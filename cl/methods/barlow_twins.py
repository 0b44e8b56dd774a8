from collections import Counter

import torch

from cl.batch import Batch
from cl.config.methods.barlow_twins import BarlowTwinsConfig
from cl.config.programs import Pretrain
from cl.losses import barlow_twins_loss
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.nn.heads import barlow_twins_projector
from cl.optim.schedules import Budget


class BarlowTwins(ContrastiveModule[BarlowTwinsConfig]):
    """Projection dimensions agree between views and are uncorrelated with each other (arXiv 2103.03230)."""

    views_together = False

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = barlow_twins_projector(*dims)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        z = [self.projector(f) for views in features for f in views]  # V of [B, D]
        # (v, g) has the transposed correlation matrix of (g, v), hence the same loss.
        pairs = Counter(tuple(sorted(pair)) for pair in view_pairs(batch.views))
        losses = [
            count * barlow_twins_loss(z[g], z[v], lamb=self.method.lamb, scale=self.method.scale_loss)
            for (g, v), count in pairs.items()
        ]
        return StepOutput(torch.stack(losses).sum() / pairs.total(), features[0])
