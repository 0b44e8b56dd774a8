from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from cl.backbones import Backbone, build_backbone
from cl.backbones.layers import layers_of
from cl.backbones.loading import load_init_from
from cl.batch import Batch
from cl.config.methods import MethodConfig
from cl.config.programs import Pretrain
from cl.distributed import rank, world_size
from cl.errors import UserError
from cl.evaluation.features import Labelled
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.methods.freezing import FreezingModule
from cl.methods.rates import Parts, learning_groups
from cl.methods.replicated import Replicated
from cl.methods.scheduled import CosineRamp
from cl.nn.batch_norm import frozen_statistics
from cl.nn.drop_path import has_dropout
from cl.nn.heads import linear_head
from cl.nn.replays import Replays
from cl.nn.seeding import seed_network
from cl.optim import build_optimizer, with_schedule
from cl.optim.gradients import clip_each_gradient, clip_gradients, freeze_gradients
from cl.optim.groups import set_weight_decay
from cl.optim.schedules import Budget, Schedule

M = TypeVar("M", bound=MethodConfig)


class StepOutput(NamedTuple):
    loss: Tensor  # scalar, mean over this process's images
    features: Tensor  # [V, B, F] of the full-size views, by the evaluated network; the online head learns on them
    metrics: Mapping[str, Tensor] = {}  # scalars, also means over this process's images; the base logs them
    counted: Mapping[str, tuple[Tensor, Tensor]] = {}  # sums and counts, for means over some of these images only


def view_pairs(views: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """All pairs (g, v), g != v, of a full-size view g as the target and any view v, numbered in order.

    `views` has the views of each resolution, [V_r, B, ...], full-size first. Small crops are never targets (SwAV, arXiv
    2006.09882, section 3.2). Two full-size views give (0, 1) and (1, 0): the two terms of a symmetric loss.
    """
    count = sum(map(len, views))
    return [(g, v) for g in range(len(views[0])) for v in range(count) if v != g]


class ContrastiveModule(FreezingModule, Generic[M]):
    """Backbone, online linear head, optimizer, schedule. A method adds its heads and returns its loss from `step`."""

    views_together: ClassVar[bool] = True  # one forward pass for all views of a resolution, else one per view
    projector: nn.Module  # set by the method

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config.backbone, budget.steps_per_epoch)
        config.method.check_batch(budget.global_batch)
        self.config = config
        self.budget = budget
        self.method = cast(M, config.method)
        views = config.views
        small_crops = {"multicrop with --small_crop_size": views.small_crop_size} if views.multicrop else {}
        self.backbone = build_backbone(config.backbone, views.crop_size, config.data.in_channels, small_crops)
        decay = config.optim.layer_decay
        if decay < 1 and layers_of(self.backbone) is None:
            encoder = config.backbone.encoder
            raise UserError(f"--layer_decay: got {decay:g} with {encoder}, whose layers timm cannot name, expected 1")
        self.has_dropout = has_dropout(self.backbone)
        self.initial_weights = ""  # a description, for the banner
        if config.backbone.init_from:  # before a teacher is copied
            self.initial_weights = load_init_from(
                self.backbone, config.backbone, views.crop_size, config.data.in_channels
            )
        self.online_head = linear_head(self.backbone.num_features, classes) if classes else None
        self.predictor: nn.Module | None = None  # set by a method that has one
        self.prototypes: nn.Module | None = None  # likewise
        self.frozen_prototypes_steps = 0  # optimizer steps before the prototypes start to learn
        self.last_lr = 0.0  # of the last optimizer step
        self.replays = Replays()  # of networks that were captured, on a GPU

    # What a method defines.

    @abstractmethod
    def step(self, batch: Batch) -> StepOutput:
        """The method's loss, and the features that its evaluated network has computed on the way."""

    def after_step(self, taken: Tensor) -> None:
        """Change the state that has no gradient (teacher, queue, ...), once after each optimizer step.

        `taken` is a scalar, 1.0 or 0.0 on the device: 0.0 if the step was skipped. It masks the change.
        """

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> projections [B, D] by the evaluated network, for diagnostics."""
        return self.projector(self(images))

    def make_up_targets(self) -> None:
        """Make up what a program would give this method before its first step; for checks without a data set."""

    # What the base does for every method.

    @property
    def evaluated(self) -> Backbone:
        """The network that is evaluated and exported, everywhere."""
        return cast(Backbone, self.get_submodule(self.method.evaluated))

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DDP must not touch; it asks for this name."""
        replicated = [name for name, module in self.named_modules() if isinstance(module, Replicated)]
        return [name for name, _ in self.named_buffers() if name.rpartition(".")[0] in replicated]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> features [B, F] by the evaluated network."""
        return self.evaluated(images)

    def encode(self, views: Tensor, network: nn.Module) -> Tensor:
        """Views [V, B, C, H, W] of one resolution -> features [V, B, F] by the student's or a teacher's backbone.

        Under --exact_negatives one batch at a time, recomputed in backward.
        """
        # Its gradient would be dropped. With more processes it is computed, for DDP waits for all gradients.
        needs_gradient = torch.is_grad_enabled() and not (self.backbone_is_frozen and world_size() == 1)
        chunks = views.chunk(self.config.batches_per_loss, dim=1)
        if len(chunks) == 1 or not needs_gradient:
            with torch.set_grad_enabled(needs_gradient):
                return torch.cat([self._forward_views(chunk, network) for chunk in chunks], dim=1)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            """For the forward pass and its recomputation, which must not update the running statistics again."""
            return nullcontext(), frozen_statistics(network)

        features = [
            checkpoint(self._forward_views, chunk, network, use_reentrant=False, context_fn=contexts)
            for chunk in chunks
        ]
        return torch.cat(features, dim=1)

    def _forward_views(self, views: Tensor, network: nn.Module) -> Tensor:
        """[V, B, C, H, W] -> [V, B, F]; with `views_together`, batch norm sees all views of a resolution together."""
        if not self.views_together:
            return torch.stack([network(view) for view in views])
        features = network(rearrange(views, "v b c h w -> (v b) c h w"))
        return rearrange(features, "(v b) f -> v b f", v=len(views))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        self.replays.restart()
        output = self.step(batch)
        for name, value in ({"loss": output.loss} | dict(output.metrics)).items():
            self.means.add(name, value * len(batch.index), len(batch.index))
        for name, (total, count) in output.counted.items():
            self.means.add(name, total, count)
        if self.online_head is None:
            return output.loss
        return output.loss + self._online_loss(self.online_head, output.features.detach(), batch.target)

    def _online_loss(self, head: nn.Linear, features: Tensor, target: Tensor) -> Tensor:
        """The online head's loss on the detached features [V, B, F] of the full-size views."""
        logits = head(rearrange(features, "v b f -> (v b) f"))
        target = target.repeat(len(features))
        loss, total = labelled_cross_entropy(logits, target)
        self.means.add("online_linear/loss", total, (target >= 0).sum())
        self.add_accuracy("online_linear/train", logits, target)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        features = self(batch.views[0][0])
        self.validation.append(Labelled(features, batch.target))
        if self.online_head is not None:
            self.add_accuracy("online_linear/val", self.online_head(features), batch.target)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Randomness inside the network depends only on seed, step and image: a resumed run draws the same. Drop path
        # draws for the images of all processes; dropout for those of one, so there the rank is part of the seed.
        step_seed = (self.config.run.seed * 1_000_003 + self.trainer.current_epoch) * 1_000_003 + batch_idx
        seed_network(self.device, (step_seed * 65_537 + rank() * self.has_dropout) % 2**63)
        self.step_index = self.trainer.global_step

    def on_after_backward(self) -> None:
        self.replays.own_gradients(self.parameters())

    def prepare_gradients(self, optimizer: Optimizer) -> None:
        freeze_gradients(optimizer, self.step_index)
        optim = self.config.optim
        if optim.weight_decay_end is not None:
            ramp = CosineRamp(optim.weight_decay, optim.weight_decay_end, self.budget.steps)
            set_weight_decay(optimizer, ramp(self.step_index))
        if optim.clip_grad is not None:
            clip = clip_each_gradient if optim.clip_each_parameter else clip_gradients
            clip(self._learned(), optim.clip_grad)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.last_lr = float(optimizer.param_groups[0]["lr"])

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """The only place that Lightning reaches once per optimizer step and right after it (Lightning#11688)."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.undo_step()
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self.after_step(self.step_taken)

    def _learned(self) -> list[nn.Parameter]:
        """What the method's loss trains."""
        online = {id(p) for p in self.online_head.parameters()} if self.online_head is not None else set()
        return [p for p in self.parameters() if p.requires_grad and id(p) not in online]

    def configure_optimizers(self) -> Any:
        optim = self.config.optim
        parts = Parts(self.backbone, self.predictor, self.prototypes, self.online_head)
        frozen = self.frozen_backbone_steps, self.frozen_prototypes_steps
        groups = learning_groups(self.config, self.budget.global_batch, parts, self._learned(), frozen)
        optimizer = build_optimizer(optim, groups, self.config.device.scales_gradients)
        return with_schedule(optimizer, Schedule.of(optim, self.budget))
