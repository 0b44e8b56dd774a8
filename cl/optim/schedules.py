"""Learning-rate schedules as closed forms of the step: there is no state to save, and none to replay on resume."""

import math
from dataclasses import dataclass

from cl.config.optim import OptimConfig
from cl.config.run import RunConfig


@dataclass(frozen=True)
class Budget:
    """The size of a training: images per step over all processes, steps per epoch, total steps."""

    global_batch: int
    steps_per_epoch: int
    steps: int
    fast_dev_run: bool = False  # one step, which leaves no room for a warm-up

    @classmethod
    def of(cls, run: RunConfig, global_batch: int, steps_per_epoch: int) -> "Budget":
        if run.fast_dev_run:
            return cls(global_batch, 1, 1, fast_dev_run=True)
        steps = steps_per_epoch * run.epochs
        return cls(global_batch, steps_per_epoch, min(steps, run.max_steps or steps))

    @property
    def epochs(self) -> int:
        """Epochs, counting an incomplete last one."""
        return -(-self.steps // self.steps_per_epoch)


@dataclass(frozen=True)
class Schedule:
    """The factor on the peak learning rate at each optimizer step of a run of `horizon` steps."""

    kind: str
    horizon: int
    steps_per_epoch: int
    warmup: int = 0  # steps of linear warm-up; warmup_cosine only
    floor: float = 0.0  # the smallest factor: min_lr / lr
    decay_epochs: tuple[int, ...] = ()
    decay_rate: float = 0.1

    @classmethod
    def of(cls, config: OptimConfig, budget: Budget) -> "Schedule":
        has_warmup = config.scheduler == "warmup_cosine" and not budget.fast_dev_run
        return cls(
            kind=config.scheduler,
            horizon=budget.steps,
            steps_per_epoch=budget.steps_per_epoch,
            warmup=config.warmup_steps(budget.steps_per_epoch, budget.steps) if has_warmup else 0,
            floor=config.min_lr / config.lr if config.lr else 0.0,
            decay_epochs=config.lr_decay_steps,
            decay_rate=config.lr_decay_rate,
        )

    def __call__(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        if self.kind == "step":
            return self.decay_rate ** sum(epoch >= decay_epoch for decay_epoch in self.decay_epochs)
        if self.kind == "exponential":
            return self.decay_rate**epoch
        if self.kind == "none":
            return 1.0
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.horizon - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
