from collections import Counter

import torch
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.barlow_twins import BarlowTwinsConfig
from cl.config.programs import Pretrain
from cl.losses import barlow_twins_loss
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.nn.heads import barlow_twins_projector
from cl.optim.schedules import Budget


class BarlowTwins(ContrastiveModule[BarlowTwinsConfig]):
    """Each dimension of the projection agrees between views and with no other dimension (arXiv 2103.03230)."""

    views_together = False

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = barlow_twins_projector(*dims)

    def step(self, features: tuple[Tensor, ...], batch: Batch) -> StepOutput:
        z = [self.projector(f) for views in features for f in views]  # V of [B, D]
        # The correlation of (v, g) is that of (g, v) transposed and has the same loss.
        pairs = Counter(tuple(sorted(pair)) for pair in view_pairs(features))
        losses = [
            times * barlow_twins_loss(z[g], z[v], self.method.lamb, self.method.scale_loss)
            for (g, v), times in pairs.items()
        ]
        return StepOutput(torch.stack(losses).sum() / pairs.total())
