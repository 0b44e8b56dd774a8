import torch
from einops import rearrange
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.distill import DistillConfig
from cl.config.programs import Pretrain
from cl.losses import negative_cosine_similarity
from cl.methods.base import ContrastiveModule, StepOutput
from cl.methods.centre import Centre
from cl.methods.targets import MadeUp, Targets
from cl.nn.heads import distill_head
from cl.optim.schedules import Budget

CENTRE_MOMENTUM = 0.99  # of the mean of a teacher's features, where it is not known from the start


class Distill(ContrastiveModule[DistillConfig]):
    """Each view predicts the centred features that a frozen teacher has of its image: 1 - cosine."""

    targets: Targets  # given before the first step

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        dims = self.backbone.num_features, self.method.proj_hidden_dim, self.method.proj_output_dim
        self.projector = distill_head(*dims)
        same_views = self.method.distill_views == "same"
        self.centre = Centre(self.method.proj_output_dim, CENTRE_MOMENTUM) if same_views else None

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        predicted = self.projector(rearrange(torch.cat(features), "v b f -> (v b) f"))
        targets = rearrange(self.taught(batch), "v b d -> (v b) d")
        return StepOutput(1 + negative_cosine_similarity(predicted, targets.to(predicted.dtype)), features[0])

    @torch.no_grad()
    def taught(self, batch: Batch) -> Tensor:
        """The target [V, B, D] of each view."""
        targets = self.targets(batch)
        if self.centre is None:
            return targets
        self.centre.add(targets.flatten(0, 1))
        return targets - self.centre.values

    def make_up_targets(self) -> None:
        self.targets = MadeUp(self.method.proj_output_dim)

    def after_step(self, taken: Tensor) -> None:
        if self.centre is not None:
            self.centre.commit(taken)
