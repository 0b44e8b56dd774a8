"""Detect a collapsed embedding. The loss does not show it (SimSiam's goes to -1), so other numbers are measured."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cl.batch import Batch
from cl.config.methods.base import CollapseLevel
from cl.evaluation.features import evaluating, gather_in_order
from cl.evaluation.online.metrics import MeasuredModule

HEALTH_IMAGES = 4096  # at most: enough for a rank of hundreds, and takes seconds even on a CPU
MIN_STEPS = 50  # no verdict before
MIN_IMAGES = 16  # no verdict with fewer
NEAR_LEVEL = 0.99  # of the level after a collapse; MoCo v3 at temperature 1 trains from 1.0 to 0.89 of it
PREFIX = "health/"  # of the columns of metrics.csv


class Health(NamedTuple):
    """Diagnostics of the projections of two views."""

    std: float  # mean over dimensions, times sqrt(D): 1 if directions are spread evenly, 0 if all are equal
    rank: float  # effective rank, at most min(N, D)
    alignment: float  # mean squared distance between the two views of an image
    uniformity: float  # log of the mean Gaussian potential between images; lower is more spread out
    positive_cosine: float  # mean over pairs of views of the same image
    negative_cosine: float  # mean over pairs of different images


def health(z1: Tensor, z2: Tensor) -> Health:
    """Diagnostics of the l2-normalised projections of two views of the same images.

    The standard deviation is SimSiam's (arXiv 2011.10566, section 4.1). The rank is RankMe (arXiv 2210.02885, eq. 1):
    the exponential of the entropy of the singular values. Alignment (exponent 2) and uniformity (t = 2) are those of
    arXiv 2005.10242. Rank, standard deviation, uniformity and negative cosine use the first view only.

    Args:
        z1: [N, D] projections, N at least 2, any scale; normalised here.
        z2: [N, D] of the other view.
    """
    if not (z1.isfinite().all() and z2.isfinite().all()):
        return Health(*[math.nan] * len(Health._fields))
    z1, z2 = F.normalize(z1.double(), dim=1), F.normalize(z2.double(), dim=1)
    n, dim = z1.shape
    cosine = z1 @ z1.T
    gram = cosine if n < dim else z1.T @ z1  # its eigenvalues are the squares of the singular values of z1
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = singular / singular.sum().clamp(min=1e-12)
    others = cosine[~torch.eye(n, dtype=torch.bool, device=z1.device)]
    return Health(
        std=float(z1.std(dim=0, correction=0).mean() * dim**0.5),
        rank=float(torch.special.entr(p).sum().exp()),
        alignment=float((z1 - z2).square().sum(dim=1).mean()),
        uniformity=float((4 * (others - 1)).exp().mean().log()),  # -2 |a - b|^2 = 4 (<a, b> - 1)
        positive_cosine=float((z1 * z2).sum(dim=1).mean()),
        negative_cosine=float(others.mean()),
    )


@dataclass(frozen=True)
class Verdict:
    """What the numbers mean, in one line; `alarm` if something is wrong, `collapsed` if the run cannot recover."""

    text: str
    alarm: bool = False
    collapsed: bool = False


class Level(NamedTuple):
    """A number of the run that shows a collapse."""

    measured: float
    collapsed: CollapseLevel

    def __str__(self) -> str:
        column, value = self.collapsed
        return f"{column} {self.measured:.4g}, {value:.4g} if all projections are equal"


def verdict_on(
    measured: Health, images: int, dim: int, step: int, steps: int, level: Level | None = None
) -> Verdict | None:
    """The verdict after `step` of `steps` optimizer steps; None if there are too few steps or images."""
    if step < MIN_STEPS or images < MIN_IMAGES:
        return None
    numbers = f"std x sqrt(d) {measured.std:.2f}, rank {measured.rank:.1f} of {dim}"
    if not (measured.std >= 0.1 and measured.rank >= 2):  # NaN counts as collapsed
        loss = f", {level}" if level is not None else ""
        return Verdict(f"collapsed: {numbers}{loss}; try a lower --lr", alarm=True, collapsed=True)
    if step > steps / 10 and measured.rank < 0.02 * min(images, dim):
        return Verdict(f"partial collapse: rank {measured.rank:.0f} of {dim}", alarm=True)
    if level is not None and step > steps / 10 and level.measured >= NEAR_LEVEL * level.collapsed.value:
        return Verdict(f"nothing learned: {level}", alarm=True)
    return Verdict(f"no collapse: {numbers}")


class ProjectionHealth:
    """A measurement: health of the projections of two views."""

    def __init__(self, views: Iterable[Batch], embed: Callable[[Tensor], Tensor]) -> None:
        self.views = views
        self.embed = embed

    def __call__(self, module: MeasuredModule) -> dict[str, float]:
        with evaluating(module):
            batches = (batch.to(module.device) for batch in self.views)
            outputs = [(batch.index, *map(self.embed, batch.views[0][:2])) for batch in batches]
        index, z1, z2 = (torch.cat(column) for column in zip(*outputs, strict=True))
        z1, z2 = gather_in_order(index, z1, z2)
        if len(z1) < 2:
            return {}
        return {f"{PREFIX}{name}": value for name, value in health(z1, z2)._asdict().items()}


def health_of(row: Mapping[str, float]) -> Health | None:
    """The measurement of `ProjectionHealth` in the row of an epoch; None if it is missing."""
    values = [row.get(f"{PREFIX}{name}") for name in Health._fields]
    return None if None in values else Health(*values)  # type: ignore[arg-type]


class CollapseAlarm(Callback):
    """Print the verdict when it becomes an alarm or stops being one; with `stop` a collapse ends the run."""

    def __init__(self, images: int, dim: int, steps: int, stop: bool, level: CollapseLevel | None) -> None:
        self.images = images  # that are measured
        self.dim = dim  # of their projections
        self.steps = steps  # of the whole run
        self.stop = stop
        self.level = level  # of the method's loss
        self.verdict: Verdict | None = None
        self.stopped = False

    @property
    def text(self) -> str:
        """The latest verdict, or "" before the first."""
        return self.verdict.text if self.verdict else ""

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.verdict) if self.verdict else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.verdict = Verdict(**state_dict) if state_dict else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuredModule)
        measured = health_of(pl_module.row)
        if measured is None:
            return
        level = None
        if self.level is not None and self.level.column in pl_module.row:  # else every step was skipped
            level = Level(pl_module.row[self.level.column], self.level)
        was_alarm = self.verdict is not None and self.verdict.alarm
        self.verdict = verdict_on(measured, self.images, self.dim, trainer.global_step, self.steps, level)
        if self.verdict is not None and self.verdict.alarm != was_alarm and trainer.is_global_zero:
            print(self.verdict.text, flush=True)
        self.stopped = self.stop and self.verdict is not None and self.verdict.collapsed
        trainer.should_stop = trainer.should_stop or self.stopped
