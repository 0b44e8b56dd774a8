"""Linear heads for a grid of learning rates and weight decays, trained together on features that are computed once.

Each head ends up as torch's SGD would train it alone; with batched products a grid costs little more than one head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.config.optim import OptimConfig
from cl.config.run import RunConfig
from cl.data.sampler import RankSlice, TrainSampler
from cl.data.views.draws import hash_words
from cl.evaluation.features import Labelled
from cl.evaluation.offline.label_split import split_held_out
from cl.evaluation.offline.linear_evaluation import LinearEvaluation, correct_per_head
from cl.losses.cross_entropy import labelled_cross_entropy
from cl.optim.schedules import Budget, Schedule

_MIRROR = 0x3144  # a separate hash stream, for the choice of the mirrored images


@dataclass(frozen=True)
class HeadTraining:
    """How long heads are trained, and on which batches. Every process trains all heads on the same global batches."""

    run: RunConfig
    batch: int  # global
    flip_prob: float
    fill: bool  # the last batch of an epoch

    def sampler(self, images: int) -> TrainSampler:
        return TrainSampler(images, min(self.batch, images), self.run.seed, RankSlice(0, 1), self.fill)


@torch.no_grad()
def train_best_head(linear: LinearEvaluation, train: Labelled, training: HeadTraining) -> dict[str, float]:
    """Choose a point of the grid on the held-out tenth, if there are several, and train its head on all of `train`.

    Returns the loss and the training accuracy of that head.
    """
    bank = Labelled(train.features[:, 0], train.targets)
    if len(linear.grid) > 1:
        train_rows, held_rows = map(torch.from_numpy, split_held_out(train.targets.cpu().numpy()))
        heads = train_heads(
            Labelled(train.features[train_rows], train.targets[train_rows]), linear.head, linear.grid, training
        )
        logits = head_logits(heads, append_ones(bank.features[held_rows]))
        correct = correct_per_head(logits, bank.targets[held_rows])
        linear.choose(tuple((correct / len(held_rows)).tolist()))
    (head,) = train_heads(train, linear.head, [linear.grid[linear.best]], training)
    linear.head.weight.copy_(head[:, :-1])
    linear.head.bias.copy_(head[:, -1])
    logits = linear.head(bank.features)
    linear.means.add("loss", labelled_cross_entropy(logits, bank.targets)[1], len(logits))
    linear.add_accuracy(f"{linear.name}/train", logits, bank.targets)
    return linear.means.compute()


def head_gradients(heads: Tensor, x: Tensor, target: Tensor) -> Tensor:
    """The gradient of each head's mean cross-entropy, [G, C, F + 1].

    Args:
        heads: [G, C, F + 1]; the last column is the bias.
        x: [B, F + 1] features; the last one is 1.
        target: [B] int64 in [0, C).
    """
    error = head_logits(heads, x).softmax(dim=2) - F.one_hot(target, heads.shape[1])[:, None]
    return (error.flatten(1).T @ x).view_as(heads) / len(x)


def head_logits(heads: Tensor, x: Tensor) -> Tensor:
    """[B, G, C] from heads [G, C, F + 1] and features [B, F + 1]."""
    return (x @ heads.flatten(0, 1).T).unflatten(1, heads.shape[:2])


def append_ones(features: Tensor) -> Tensor:
    """[..., F] -> [..., F + 1]: the factor of the bias."""
    return F.pad(features, (0, 1), value=1.0)


def train_heads(images: Labelled, head: nn.Linear, grid: Sequence[OptimConfig], training: HeadTraining) -> Tensor:
    """Train a copy of `head` for each point of the grid by SGD on features [N, V, F] of V flips -> [G, C, F + 1]."""
    x = append_ones(images.features)
    targets = images.targets
    sampler = training.sampler(len(targets))
    budget = Budget.of(training.run, sampler.batch_size, len(sampler))
    schedule = Schedule.of(grid[0], budget)
    heads = torch.cat([head.weight, head.bias[:, None]], dim=1).detach().to(x).repeat(len(grid), 1, 1)
    velocity = torch.zeros_like(heads)
    rates = x.new_tensor([point.scaled_lr(budget.global_batch) for point in grid])[:, None, None]
    decays = x.new_tensor([point.weight_decay for point in grid])[:, None, None]
    for step, (index, flip) in enumerate(islice(_batches(sampler, training), budget.steps)):
        chosen = x[index, flip % x.shape[1]]
        velocity.mul_(grid[0].momentum).add_(head_gradients(heads, chosen, targets[index])).addcmul_(decays, heads)
        heads.addcmul_(rates * schedule(step), velocity, value=-1)
    return heads


def _batches(sampler: TrainSampler, training: HeadTraining) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of indices [B] and flips [B], 1 for a mirrored image."""
    for epoch in count():
        sampler.epoch = epoch
        for keys in sampler:
            index = np.array([i for _, i in keys])
            words = hash_words(_MIRROR, training.run.seed, epoch, index)
            flips = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 < training.flip_prob
            yield torch.from_numpy(index), torch.from_numpy(flips).long()
