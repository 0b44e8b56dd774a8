"""Learning rates over time, as closed forms of the step: nothing to save, nothing to replay after a resume."""

import math
from dataclasses import dataclass

from cl.config.optim import OptimConfig
from cl.config.run import RunConfig


@dataclass(frozen=True)
class Budget:
    """How wide and how long a training is: images per step over all processes, steps per epoch, steps in all."""

    global_batch: int
    steps_per_epoch: int
    steps: int
    dry_run: bool = False  # --fast_dev_run: one step, in which no warm-up has room

    @classmethod
    def of(cls, run: RunConfig, global_batch: int, steps_per_epoch: int) -> "Budget":
        if run.fast_dev_run:
            return cls(global_batch, 1, 1, dry_run=True)
        steps = steps_per_epoch * run.epochs
        return cls(global_batch, steps_per_epoch, min(steps, run.max_steps or steps))

    @property
    def epochs(self) -> int:
        """Epochs that are begun."""
        return -(-self.steps // self.steps_per_epoch)


@dataclass(frozen=True)
class Schedule:
    """The factor on a peak learning rate at each optimizer step of a run of `horizon` steps."""

    kind: str
    horizon: int
    steps_per_epoch: int
    warmup: int = 0  # steps of linear warm-up, of warmup_cosine only
    floor: float = 0.0  # where a cosine ends, as a factor
    decay_epochs: tuple[int, ...] = ()
    decay_rate: float = 0.1

    @classmethod
    def of(cls, config: OptimConfig, budget: Budget) -> "Schedule":
        warms_up = config.scheduler == "warmup_cosine" and not budget.dry_run
        warmup = config.warmup_steps(budget.steps_per_epoch, budget.steps) if warms_up else 0
        floor = config.min_lr / config.lr if config.lr else 0.0
        decay = config.lr_decay_steps, config.lr_decay_rate
        return cls(config.scheduler, budget.steps, budget.steps_per_epoch, warmup, floor, *decay)

    def __call__(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        if self.kind == "step":
            return self.decay_rate ** sum(epoch >= at for at in self.decay_epochs)
        if self.kind == "exponential":
            return self.decay_rate**epoch
        if self.kind == "none":
            return 1.0
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.horizon - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
