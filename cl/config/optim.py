from dataclasses import dataclass, fields
from itertools import product
from typing import Annotated

from cl.config.flags import Config, Flag
from cl.errors import UserError

BACKBONE_LR_FACTOR = Flag("learning rate of the backbone, as a multiple of --lr", above=0)
SCHEDULERS = ("warmup_cosine", "cosine", "step", "exponential", "reduce", "none")


@dataclass(frozen=True)
class ScheduleConfig(Config):
    """Optimizer and schedule. Learning rates are per 256 images of the global batch (arXiv 1706.02677)."""

    optimizer: Annotated[str, Flag("optimizer", choices=("sgd", "adam", "adamw"))] = "sgd"
    momentum: Annotated[float, Flag("momentum of sgd", low=0, high=1)] = 0.9
    scheduler: Annotated[str, Flag("learning rate schedule", choices=SCHEDULERS)] = "warmup_cosine"
    warmup_epochs: Annotated[
        float | None,
        Flag("epochs of linear warm-up under warmup_cosine; by default 10, but at most a tenth of the run", low=0),
    ] = None
    min_lr: Annotated[float, Flag("final learning rate of a cosine, per 256 images like --lr", low=0)] = 0.0
    lr_decay_steps: Annotated[tuple[int, ...], Flag("epochs at which the step schedule decays", low=1)] = ()
    lr_decay_rate: Annotated[
        float,
        Flag(
            "factor of each decay: at each of --lr_decay_steps, after each epoch (exponential), or after ten epochs "
            "without a lower training loss (reduce)",
            above=0,
            high=1,
        ),
    ] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheduler == "step" and not self.lr_decay_steps:
            raise UserError("--scheduler: got step, expected it with the epochs to decay at: --lr_decay_steps 60 80")

    def warmup_steps(self, steps_per_epoch: int, horizon: int) -> int:
        """Warm-up steps in a run of `horizon` optimizer steps."""
        if self.warmup_epochs is None:
            return min(10 * steps_per_epoch, horizon // 10)
        steps = round(self.warmup_epochs * steps_per_epoch)
        if steps > horizon:
            raise UserError(
                f"--warmup_epochs: got {self.warmup_epochs:g} ({steps} steps), expected at most the run's {horizon}"
            )
        return steps


@dataclass(frozen=True)
class OptimConfig(ScheduleConfig):
    """Optimizer and schedule with one learning rate and one weight decay."""

    lr: Annotated[float, Flag("learning rate per 256 images of the global batch", low=0)] = 0.3
    weight_decay: Annotated[float, Flag("weight decay", low=0)] = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_lr > self.lr:
            raise UserError(f"--min_lr: got {self.min_lr:g}, expected at most the --lr of {self.lr:g}")

    @property
    def grid(self) -> tuple["OptimConfig", ...]:
        """The points of linear evaluation's grid: only this one."""
        return (self,)

    def scaled_lr(self, global_batch: int) -> float:
        """The peak learning rate of the optimizer."""
        return self.lr * global_batch / 256


@dataclass(frozen=True)
class LinearOptimConfig(ScheduleConfig):
    """Optimizer, schedule, and a grid of learning rates and weight decays."""

    lr: Annotated[
        tuple[float, ...], Flag("learning rate per 256 images of the global batch; several are a grid", low=0)
    ] = (0.3,)
    weight_decay: Annotated[tuple[float, ...], Flag("weight decay; several are a grid", low=0)] = (1e-4,)

    def __post_init__(self) -> None:
        super().__post_init__()
        several = len(set(self.lr)) * len(set(self.weight_decay)) > 1
        if several and self.scheduler == "reduce":
            raise UserError(
                "--scheduler: got reduce with a grid of rates, expected a schedule that all rates can share"
            )
        if several and self.min_lr:
            raise UserError(
                f"--min_lr: got {self.min_lr:g} with a grid of rates, expected 0: all rates share one schedule"
            )
        self.grid  # noqa: B018  # checks its only point

    @property
    def grid(self) -> tuple[OptimConfig, ...]:
        """The points of the grid: each learning rate with each weight decay, smallest first."""
        shared = {field.name: vars(self)[field.name] for field in fields(ScheduleConfig)}
        points = product(sorted(set(self.lr)), sorted(set(self.weight_decay)))
        return tuple(OptimConfig(lr=lr, weight_decay=decay, **shared) for lr, decay in points)


@dataclass(frozen=True)
class PretrainOptimConfig(OptimConfig):
    """Optimizer and schedule. Adds the online head's learning rate, LARS and accumulation for pretraining."""

    classifier_lr: Annotated[float, Flag("learning rate of the online linear head, per 256 images", low=0)] = 0.1
    backbone_lr_factor: Annotated[float, BACKBONE_LR_FACTOR] = 1.0
    layer_decay: Annotated[
        float,
        Flag(
            "learning rate of each layer of the backbone (a ResNet's stage, a transformer's block), as a multiple of "
            "the rate of the layer above it; above the last one are the heads",
            above=0,
            high=1,
        ),
    ] = 1.0
    lars: Annotated[bool, Flag("adapt the learning rate of sgd to each layer's norm (LARS)")] = False
    lars_eta: Annotated[float, Flag("trust coefficient of LARS", above=0)] = 1e-3
    lars_clip: Annotated[bool, Flag("let LARS only lower the learning rate: --lr is then a cap")] = False
    lr_scheduler_for_pred_head: Annotated[bool, Flag("schedule the learning rate of the predictor like the others")] = (
        True
    )
    decay_biases_and_norms: Annotated[bool, Flag("weight decay also on biases and norms; LARS never decays them")] = (
        True
    )
    clip_grad: Annotated[float | None, Flag("largest global norm of the gradients, online head excluded", above=0)] = (
        None
    )
    clip_each_parameter: Annotated[
        bool, Flag("apply --clip_grad to the norm of each parameter's gradient by itself, as DINO does")
    ] = False
    weight_decay_end: Annotated[
        float | None,
        Flag("weight decay at the last step, along half a cosine from --weight_decay; by default constant", low=0),
    ] = None
    accumulate: Annotated[
        int, Flag("batches per optimizer step; the global batch grows with it", low=1, resume="free")
    ] = 1
    exact_negatives: Annotated[
        bool, Flag("one loss over all batches of --accumulate, at the cost of a second forward pass instead of memory")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lars and self.optimizer != "sgd":
            raise UserError(f"--lars: got it with --optimizer {self.optimizer}, expected --optimizer sgd")

    def scaled_classifier_lr(self, global_batch: int) -> float:
        return self.classifier_lr * global_batch / 256
