"""Linear evaluation by the standard protocol: how well a linear classifier does on the features of augmented views."""

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.backbones import Backbone
from cl.batch import Batch
from cl.config.programs import Linear
from cl.distributed import total
from cl.evaluation.online.metrics import MeasuredModule
from cl.evaluation.online.online_probe import probe_loss
from cl.losses.precision import full_precision
from cl.nn.heads import linear_head
from cl.optim import optimizer_of, with_schedule
from cl.optim.groups import Group
from cl.optim.schedules import Budget, Schedule

_linear = full_precision(F.linear)  # a head that diverges must not overflow in half precision and stop the others


class LinearEvaluation(MeasuredModule):
    """A linear head for each pair of rate and decay, all from the same start, on one forward of the backbone.

    The backbone stays as it is, without gradient and with batch norm in evaluation mode; unless it is fine-tuned.
    Loss and training accuracy are those of `best`: until a later epoch shows a better one, the first pair.
    """

    def __init__(self, backbone: Backbone, classes: int, config: Linear, budget: Budget) -> None:
        super().__init__()
        self.config, self.budget, self.pairs = config.linear, budget, config.optim.pairs
        self.backbone = backbone.requires_grad_(self.config.finetune)
        head = linear_head(backbone.num_features, classes)
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in self.pairs)
        self.name = "finetuned" if self.config.finetune else "offline_linear"
        self.best, self.accuracies = 0, (0.0,) * len(self.pairs)  # of each pair on the images that pick
        self.train()  # Lightning keeps the modes that it finds

    @property
    def head(self) -> nn.Linear:
        """The picked one."""
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
        logits, heads = self(batch.views[0][0]), len(self.heads)
        mean = probe_loss(logits.flatten(0, 1), batch.target.repeat_interleave(heads))[0]
        shown = logits[:, self.best].detach()
        self.means.add("loss", probe_loss(shown, batch.target)[1], (batch.target >= 0).sum())
        self.add_accuracy(f"{self.name}/train", shown, batch.target)
        return mean * heads  # the sum: each head has the gradient that it would have alone

    def on_validation_epoch_start(self) -> None:
        self._right = torch.zeros(len(self.heads) + 1, device=self.device, dtype=torch.float64)

    def validation_step(self, batch: Batch, _: int) -> None:
        logits = self(batch.views[0][0])
        if len(self.heads) == 1:
            self.add_accuracy(f"{self.name}/val", logits[:, 0], batch.target)
        else:
            right = (logits.argmax(dim=2) == batch.target[:, None]).sum(dim=0)
            self._right += torch.cat([right, right.new_tensor([len(logits)])])

    def on_validation_epoch_end(self) -> None:
        if len(self.heads) > 1:
            *right, images = total(self._right).tolist()
            self.pick(tuple(each / images for each in right))

    def pick(self, accuracies: tuple[float, ...]) -> None:
        """Choose the pair with the highest of the held-out `accuracies`; of several the smallest pair."""
        self.accuracies, self.best = accuracies, accuracies.index(max(accuracies))
        picked = self.pairs[self.best]
        self.evaluated |= {f"{self.name}/held_out_top1": accuracies[self.best]}
        self.evaluated |= {f"{self.name}/lr": picked.lr, f"{self.name}/weight_decay": picked.weight_decay}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["picked"] = {"best": self.best, "accuracies": self.accuracies}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best, self.accuracies = checkpoint["picked"]["best"], checkpoint["picked"]["accuracies"]

    def configure_optimizers(self) -> Any:
        batch, first = self.budget.global_batch, self.pairs[0]
        together = zip(self.heads, self.pairs, strict=True)
        groups = [Group(list(head.parameters()), pair.scaled_lr(batch), pair.weight_decay) for head, pair in together]
        if self.config.finetune:
            rate = first.scaled_lr(batch) * self.config.backbone_lr_factor
            groups.append(Group(list(self.backbone.parameters()), rate, first.weight_decay))
        return with_schedule(optimizer_of(first, groups), Schedule.of(first, self.budget))
