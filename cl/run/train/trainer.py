"""Configure Lightning's Trainer."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch.optim import Optimizer

from cl.cli import Resolved
from cl.config.run import DeviceConfig
from cl.data.loader import TrainLoader
from cl.distributed import rank
from cl.evaluation.offline.cached_protocol import CachedResult
from cl.evaluation.online.metrics import MeasuredModule
from cl.run.folder.checkpoint import AtomicCheckpointIO, SaveLast
from cl.run.folder.run_folder import plain_values
from cl.run.folder.tables import Table
from cl.run.start.plan import Plan
from cl.run.train.loggers import CSVLog
from cl.run.train.stop_signals import StopOnSignal, disable_lightning_signals
from cl.run.train.tensorboard_log import TensorBoardLog
from cl.run.train.wandb_log import WandbLog


class Position(Callback):
    """Tells the training loader when an epoch begins and when the optimizer has consumed a batch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _train_loader(trainer).set_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        _train_loader(trainer).step_done()


class PrepareGradients(Callback):
    """Freezes and clips gradients. Callbacks run before the module's own hook, and this one before the guard."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, MeasuredModule)
        pl_module.prepare_gradients(optimizer)


class StopAt(Callback):
    """Stops after `steps` steps, with a validation, which Lightning's max_steps skips in the middle of an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *step: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


def _train_loader(trainer: Trainer) -> TrainLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, TrainLoader)
    return loader


def build_trainer(
    resolved: Resolved[Any], plan: Plan, folder: Path, save: SaveLast, callbacks: Sequence[Callback]
) -> Trainer:
    """A Trainer whose sampling, checkpoints, progress output and stopping are those of `cl`, not Lightning's."""
    quiet_lightning()
    run = resolved.config.run
    trainer = Trainer(
        accelerator=plan.devices.accelerator,
        devices=plan.devices.devices,
        num_nodes=plan.devices.nodes,
        accumulate_grad_batches=plan.losses_per_step,
        precision=_lightning_precision(resolved.config.device),
        deterministic=resolved.config.device.deterministic,
        strategy="ddp" if plan.devices.processes > 1 else "auto",
        max_epochs=plan.budget.epochs,  # no max_steps: it makes Lightning treat a saved epoch as an interrupted one
        limit_train_batches=1 if run.fast_dev_run else None,
        limit_val_batches=1 if run.fast_dev_run else None,
        logger=build_loggers(resolved, folder),
        callbacks=[Position(), StopAt(plan.budget.steps), PrepareGradients(), *callbacks, StopOnSignal(save), save],
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    disable_lightning_signals(trainer)
    return trainer


def _lightning_precision(config: DeviceConfig) -> Any:
    """Lightning converts nothing under 64: network and loaders are in double precision already."""
    return "32" if config.precision == "64" else config.precision


def build_loggers(resolved: Resolved[Any], folder: Path) -> list[Logger]:
    """metrics.csv, and wandb and TensorBoard if requested."""
    run = resolved.config.run
    loggers: list[Logger] = [CSVLog(folder)]
    if (run.wandb or run.project) and rank() == 0:
        loggers.append(WandbLog(run, folder, plain_values(resolved)))
    if run.tensorboard and rank() == 0:
        loggers.append(TensorBoardLog(folder))
    return loggers


def log_cached(result: CachedResult, resolved: Resolved[Any], plan: Plan, folder: Path) -> float:
    """Log the only row of an evaluation on cached features, as a training epoch; return its images per second."""
    position = {"epoch": plan.budget.epochs, "step": plan.budget.steps}
    for logger in build_loggers(resolved, folder):
        logger.log_metrics(position | result.row, plan.budget.steps)
        logger.finalize("success")
    if rank() == 0:
        seconds = {"features_seconds": result.features_seconds, "heads_seconds": result.heads_seconds}
        Table(folder / "timing.csv").append({"images_per_second": result.images_per_second, **seconds})
    return result.images_per_second


def quiet_lightning() -> None:
    """Silence Lightning's device lists, tips and warnings; the banner has what matters."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for category in (UserWarning, FutureWarning, RuntimeWarning):
        warnings.filterwarnings("ignore", module="pytorch_lightning", category=category)
