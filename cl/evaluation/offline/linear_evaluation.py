"""Linear evaluation by the standard protocol: train linear classifiers on the features of augmented views."""

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.backbones import Backbone
from cl.batch import Batch
from cl.config.programs import Linear
from cl.distributed import stop_together, sum_over_ranks
from cl.errors import NOT_FINITE
from cl.evaluation.online.metrics import MeasuredModule
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.losses.precision import full_precision
from cl.nn.heads import linear_head
from cl.optim import build_optimizer, with_schedule
from cl.optim.groups import Group
from cl.optim.schedules import Budget, Schedule

_linear = full_precision(F.linear)  # a diverging head must not overflow in half precision and stop the others


class LinearEvaluation(MeasuredModule):
    """A linear head for each point of the grid; all start equal and share one forward pass of the backbone.

    The backbone is frozen, with batch norm in evaluation mode, unless it is fine-tuned. The logged loss and training
    accuracy are those of the `best` head: the first one until a validation finds a better one.
    """

    def __init__(self, backbone: Backbone, classes: int, config: Linear, budget: Budget) -> None:
        super().__init__()
        self.config = config.linear
        self.scaled_gradients = config.device.scales_gradients
        self.budget = budget
        self.grid = config.optim.grid
        self.backbone = backbone.requires_grad_(self.config.finetune)
        head = linear_head(backbone.num_features, classes)
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in self.grid)
        self.name = "finetuned" if self.config.finetune else "offline_linear"
        self.best = 0  # index of the chosen point
        self.accuracies = (0.0,) * len(self.grid)  # of each point, on the held-out images
        self.train()  # Lightning leaves modes as they are

    @property
    def head(self) -> nn.Linear:
        """The best one."""
        head = self.heads[self.best]
        assert isinstance(head, nn.Linear)
        return head

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.train(mode and self.config.finetune)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, G, C] of all heads."""
        with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
            features = self.backbone(images)
        weight, bias = (torch.cat([head.get_parameter(name) for head in self.heads]) for name in ("weight", "bias"))
        return _linear(features, weight, bias).unflatten(1, (len(self.heads), -1))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        logits = self(batch.views[0][0])
        heads = len(self.heads)
        mean = labelled_cross_entropy(logits.flatten(0, 1), batch.target.repeat_interleave(heads))[0]
        best = logits[:, self.best].detach()
        self.means.add("loss", labelled_cross_entropy(best, batch.target)[1], (batch.target >= 0).sum())
        self.add_accuracy(f"{self.name}/train", best, batch.target)
        return mean * heads  # the sum over heads: each head gets the gradient that it would get alone

    def on_validation_epoch_start(self) -> None:
        self._correct = torch.zeros(len(self.heads) + 1, device=self.device, dtype=torch.float64)  # per head; images

    def validation_step(self, batch: Batch, _: int) -> None:
        logits = self(batch.views[0][0])
        if len(self.heads) == 1:
            self.add_accuracy(f"{self.name}/val", logits[:, 0], batch.target)
        else:
            correct = correct_per_head(logits, batch.target)
            self._correct += torch.cat([correct, correct.new_tensor([len(logits)])])

    def on_validation_epoch_end(self) -> None:
        if len(self.heads) > 1:
            *correct, images = sum_over_ranks(self._correct).tolist()
            self.choose(tuple(count / images for count in correct))

    def choose(self, accuracies: tuple[float, ...]) -> None:
        """Choose the point with the highest held-out accuracy; ties go to the first point, which is the smallest.

        The accuracy of a head that diverged is NaN.
        """
        self.accuracies = accuracies
        finite = [accuracy for accuracy in accuracies if math.isfinite(accuracy)]
        if not finite:
            message = f"the heads of all {len(accuracies)} pairs of rates and decays diverged; try a lower --lr"
            stop_together(message, NOT_FINITE)
        self.best = accuracies.index(max(finite))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["grid"] = {"best": self.best, "accuracies": self.accuracies}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best = checkpoint["grid"]["best"]
        self.accuracies = checkpoint["grid"]["accuracies"]

    def configure_optimizers(self) -> Any:
        batch = self.budget.global_batch
        first = self.grid[0]
        groups = [
            Group(list(head.parameters()), point.scaled_lr(batch), point.weight_decay)
            for head, point in zip(self.heads, self.grid, strict=True)
        ]
        if self.config.finetune:
            rate = first.scaled_lr(batch) * self.config.backbone_lr_factor
            groups.append(Group(list(self.backbone.parameters()), rate, first.weight_decay))
        return with_schedule(build_optimizer(first, groups, self.scaled_gradients), Schedule.of(first, self.budget))


def correct_per_head(logits: Tensor, target: Tensor) -> Tensor:
    """Correct answers of each head, [G] float64, by `logits` [B, G, C]; NaN for a head whose logits are not finite."""
    correct = (logits.argmax(dim=2) == target[:, None]).sum(dim=0)
    return correct.double().where(logits.isfinite().all(dim=2).all(dim=0), torch.nan)


def means_of_best(linear: LinearEvaluation) -> Mapping[str, float]:
    """A measurement: the epoch's loss and accuracies. Those of a head of a grid that has just diverged are left out."""
    means = linear.means.compute()
    if len(linear.grid) == 1:
        return means
    return {name: value for name, value in means.items() if math.isfinite(value)}


def chosen_point(linear: LinearEvaluation) -> dict[str, float]:
    """A measurement: learning rate, weight decay and held-out accuracy of a grid's best head."""
    if len(linear.grid) == 1:
        return {}
    point = linear.grid[linear.best]
    return {
        f"{linear.name}/held_out_top1": linear.accuracies[linear.best],
        f"{linear.name}/lr": point.lr,
        f"{linear.name}/weight_decay": point.weight_decay,
    }
