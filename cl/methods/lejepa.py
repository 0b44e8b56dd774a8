import torch
from einops import rearrange
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.lejepa import LeJEPAConfig
from cl.config.programs import Pretrain
from cl.losses import lejepa_terms
from cl.methods.base import ContrastiveModule, StepOutput
from cl.nn.heads import lejepa_projector
from cl.optim.schedules import Budget


class LeJEPA(ContrastiveModule[LeJEPAConfig]):
    """Views agree, and along random directions the projections are normally distributed (arXiv 2511.08544)."""

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = lejepa_projector(*dims)

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        projected = [self.projector(rearrange(f, "v b f -> (v b) f")) for f in features]
        z = torch.cat([rearrange(p, "(v b) d -> v b d", b=len(batch.index)) for p in projected])  # [V, B, D]
        terms = lejepa_terms(z, len(batch.views[0]), self.directions(z.device))
        weight = self.method.sigreg_weight
        loss = (1 - weight) * terms.invariance + weight * terms.sigreg
        return StepOutput(loss, features[0], terms._asdict())

    def directions(self, device: torch.device) -> Tensor:
        """[S, D] normal numbers, a function of seed and step alone: the same on all processes and after a resume.

        Drawn on the device, for a copy from the host would wait for it. CPUs draw the same numbers everywhere, as do
        GPUs of one model.
        """
        generator = torch.Generator(device).manual_seed(self.config.run.seed * 1_000_003 + self.step_index)
        shape = self.method.sigreg_directions, self.method.proj_output_dim
        return torch.randn(shape, generator=generator, device=device)
