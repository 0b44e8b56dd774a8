import torch
from torch import Tensor, nn

from cl.batch import Batch
from cl.config.methods.nnclr import NNCLRConfig
from cl.config.programs import Pretrain
from cl.losses import info_nce_loss
from cl.losses.precision import full_precision
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.methods.queue import Queue, directions, random_directions
from cl.nn.heads import nnclr_projector, simsiam_predictor
from cl.optim.schedules import Budget


class NNCLR(ContrastiveModule[NNCLRConfig]):
    """The nearest neighbour of one view, among former images, identifies the other view (arXiv 2104.14548)."""

    views_together = False
    predictor: nn.Module

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        size, dim = self.method.queue_size, self.method.proj_output_dim
        self.projector = nnclr_projector(self.backbone.num_features, self.method.proj_hidden_dim, dim)
        self.predictor = simsiam_predictor(dim, self.method.pred_hidden_dim)
        self.queue = Queue(random_directions(size, dim, config.run.seed))
        self.queue_labels = Queue(torch.full((size,), -1))  # to measure how good the neighbours are

    def step(self, batch: Batch) -> StepOutput:
        features = [self.encode(views, self.backbone) for views in batch.views]
        z = [self.projector(f) for views in features for f in views]  # V of [B, D]
        p = [self.predictor(projection) for projection in z]
        nearest = torch.stack([nearest_rows(z[g], self.queue.rows) for g in range(len(batch.views[0]))])  # [V_0, B]
        losses = [
            info_nce_loss(self.queue.rows[nearest[g]], p[v], self.method.temperature)
            for g, v in view_pairs(batch.views)
        ]
        parts = self.config.batches_per_loss
        self.queue.add(directions(z[0]), parts)  # of one view: others would fill it with the same images
        self.queue_labels.add(batch.target, parts)
        counted = {"neighbours/same_class": self.of_same_class(nearest, batch.target)}
        return StepOutput(torch.stack(losses).mean(), features[0], counted=counted)

    def of_same_class(self, nearest: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """How many of the neighbours [V_0, B] have the class of their image, and of how many both are known."""
        classes = self.queue_labels.rows[nearest]
        known = (classes >= 0) & (target >= 0)
        return (known & (classes == target)).sum(), known.sum()

    def after_step(self, taken: Tensor) -> None:
        self.queue.commit(taken)
        self.queue_labels.commit(taken)


@full_precision
def nearest_rows(z: Tensor, rows: Tensor) -> Tensor:
    """[B, D] projections and [K, D] unit rows -> [B] int64, the row with the largest cosine to each projection."""
    return (directions(z) @ rows.T).argmax(dim=1)
