import torch
from einops import rearrange
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.simclr import SimCLRConfig
from cl.config.programs import Pretrain
from cl.losses import nt_xent_loss
from cl.methods.base import ContrastiveModule, StepOutput
from cl.nn.heads import simclr_projector
from cl.optim.schedules import Budget


class SimCLR(ContrastiveModule[SimCLRConfig]):
    """Each view identifies the other views of its image among all views of the batch (arXiv 2002.05709)."""

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = simclr_projector(*dims, self.method.proj_batch_norm)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        z = torch.cat([self.projector(rearrange(f, "v b f -> (v b) f")) for f in features])  # [V B, D]
        ids = self.ids(batch).repeat(len(z) // len(batch.index))  # [V B]
        loss = nt_xent_loss(z, ids, self.method.temperature, self.method.decoupled)
        return StepOutput(loss, features[0])

    def ids(self, batch: Batch) -> Tensor:
        """[B] int64: views with the same id are positives."""
        return batch.index
