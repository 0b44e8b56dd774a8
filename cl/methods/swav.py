import torch
from einops import rearrange
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.swav import SwAVConfig
from cl.config.programs import Pretrain
from cl.distributed import rank, world_size
from cl.losses import sinkhorn, swav_loss
from cl.methods.base import ContrastiveModule, StepOutput
from cl.methods.queue import Queue, directions
from cl.nn.heads import swav_projector
from cl.nn.prototypes import Prototypes
from cl.optim.schedules import Budget


class SwAV(ContrastiveModule[SwAVConfig]):
    """Each view predicts the prototypes that the other views of its image are assigned to (arXiv 2006.09882)."""

    prototypes: Prototypes

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        size, dim = self.method.queue_size, self.method.proj_output_dim
        self.projector = swav_projector(self.backbone.num_features, self.method.proj_hidden_dim, dim)
        self.prototypes = Prototypes(dim, self.method.prototypes)
        self.frozen_prototypes_steps = self.method.freeze_prototypes_epochs * budget.steps_per_epoch
        # A queue of each full-size view's projections. It is filled, then used, from steps that the host knows.
        self.queue = Queue(torch.zeros(size, config.views.n_crops, dim)) if size else None
        self.queue_start = self.method.queue_start_epoch * budget.steps_per_epoch
        self.queue_use = self.queue_start + -(-size // budget.global_batch)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        z = self.projector(torch.cat([rearrange(f, "v b f -> (v b) f") for f in features]))  # one batch for its norm
        z = rearrange(z, "(v b) d -> v b d", b=len(batch.index))
        scores = self.prototypes(z)  # [V, B, K]
        full_size = len(batch.views[0])
        assignments = self.assign(scores[:full_size].detach())
        if self.queue is not None and self.step_index >= self.queue_start:
            rows = torch.stack([directions(view) for view in z[:full_size]], dim=1)
            self.queue.add(rows, self.config.batches_per_loss)
        return StepOutput(swav_loss(scores, assignments, self.method.temperature), features[0])

    @torch.no_grad()
    def assign(self, scores: Tensor) -> Tensor:
        """Scores [G, B, K] of the full-size views -> assignments [G, B, K], which balance the queue's rows, too."""
        if self.queue is None or self.step_index < self.queue_use:
            return sinkhorn(scores, self.method.sinkhorn_epsilon)
        share = rearrange(self.queue.rows[rank() :: world_size()], "n g d -> g n d")
        rows = torch.cat([self.prototypes(share), scores], dim=1)
        # Steps that were skipped may have left rows empty: the queue is used once it is full.
        full = (self.queue.written >= len(self.queue.rows)).expand(share.shape[1])
        counts = torch.cat([full, full.new_ones(scores.shape[1])])
        return sinkhorn(rows, self.method.sinkhorn_epsilon, counts=counts)[:, share.shape[1] :]

    def after_step(self, taken: Tensor) -> None:
        if self.step_index >= self.frozen_prototypes_steps:
            self.prototypes.normalise(taken)
        if self.queue is not None and self.step_index >= self.queue_start:
            self.queue.commit(taken)
