import math

import torch
from einops import rearrange
from torch import Tensor, nn

from cl.batch import Batch
from cl.config.methods.dino import DINOConfig
from cl.config.programs import Pretrain
from cl.losses import dino_loss, dino_targets, mean_entropy
from cl.methods.base import ContrastiveModule, StepOutput, view_pairs
from cl.methods.centre import Centre
from cl.methods.scheduled import CosineRamp, LinearWarmup
from cl.methods.teacher import Teacher
from cl.nn.heads import dino_projector
from cl.nn.prototypes import NormalisedPrototypes
from cl.optim.schedules import Budget


class DINO(ContrastiveModule[DINOConfig]):
    """Each view finds the prototypes that a teacher finds for a full-size view of its image (arXiv 2104.14294)."""

    prototypes: nn.Module

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        method, features = self.method, self.backbone.num_features
        dims = features, method.proj_hidden_dim, method.proj_output_dim
        self.projector = dino_projector(*dims, batch_norm=method.head_batch_norm)
        self.prototypes = NormalisedPrototypes(method.proj_output_dim, method.prototypes)
        self.frozen_prototypes_steps = round(method.freeze_last_layer_epochs * budget.steps_per_epoch)
        self.teacher = Teacher(self.backbone, self.projector, self.prototypes)
        self.centre = Centre(method.prototypes, method.centre_momentum)
        self.momentum = CosineRamp(method.teacher_momentum, method.teacher_momentum_end, budget.steps)
        warmup = round(method.teacher_temperature_warmup_epochs * budget.steps_per_epoch)
        self.temperature = LinearWarmup(method.teacher_temperature_start, method.teacher_temperature, warmup)

    def step(self, batch: Batch) -> StepOutput:
        features = torch.cat([self.encode(views, self.backbone) for views in batch.views])
        scores = scores_of(features, self.projector, self.prototypes)  # [V, B, K]
        taught, targets = self.teach(batch.views[0])
        losses = [dino_loss(scores[v], targets[g], self.method.temperature) for g, v in view_pairs(batch.views)]
        entropy = {
            "teacher/entropy": mean_entropy(targets),
            "teacher/ln_prototypes": targets.new_full((), math.log(self.method.prototypes)),
        }
        return StepOutput(torch.stack(losses).mean(), taught, entropy)

    @torch.no_grad()
    def teach(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Full-size views [V, B, C, H, W] -> the teacher's features [V, B, F] and its probabilities [V, B, K]."""
        features = self.encode(views, self.teacher.backbone)
        scores = scores_of(features, self.teacher.projector, self.teacher.prototypes)
        self.centre.add(scores.flatten(0, 1))
        return features, dino_targets(scores, self.centre.values, self.temperature(self.step_index))

    def embed(self, images: Tensor) -> Tensor:
        return self.teacher.projector(self(images))

    def after_step(self, taken: Tensor) -> None:
        self.teacher.update(self, self.momentum(self.step_index), taken)
        self.centre.commit(taken)


def scores_of(features: Tensor, projector: nn.Module, prototypes: nn.Module) -> Tensor:
    """Features [V, B, F] -> scores [V, B, K]; a batch norm in the projector sees all views together."""
    z = projector(rearrange(features, "v b f -> (v b) f"))
    return rearrange(prototypes(z), "(v b) k -> v b k", v=len(features))
