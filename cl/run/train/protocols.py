"""The protocols of main_linear: from a network and its images to the numbers in `linear.row`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import Callback
from safetensors.torch import save_file
from tqdm import tqdm

from cl.cli import Resolved
from cl.config.programs import Linear
from cl.data.datamodule import ImageData
from cl.data.images import ImageSet, stratified
from cl.distributed import rank
from cl.evaluation.features import Labelled, features_of
from cl.evaluation.offline.feature_grid import BothFlips, Course, fit
from cl.evaluation.offline.feature_scores import ValidateOnce, validate
from cl.evaluation.offline.label_split import GridData
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.evaluation.pictures.grid_picture import save_grid
from cl.run.folder.checkpoint import SaveLast
from cl.run.folder.resume_point import Start
from cl.run.start.plan import Plan
from cl.run.train.loggers import Table
from cl.run.train.progress import Progress
from cl.run.train.trainer import build_loggers, build_trainer


@dataclass(frozen=True)
class Evaluation:
    """One run of main_linear."""

    resolved: Resolved[Linear]
    plan: Plan
    data: ImageData
    linear: LinearEvaluation
    start: Start

    @property
    def train(self) -> ImageSet:
        """All the training images, also those that are held out."""
        return self.few(self.data.whole if isinstance(self.data, GridData) else self.data.splits.train)

    @property
    def val(self) -> ImageSet | None:
        val = self.data.splits.val
        return val if val is None else self.few(val)

    def few(self, images: ImageSet) -> ImageSet:
        """A batch of them under --fast_dev_run."""
        config = self.resolved.config
        return stratified(images, config.data.batch_size) if config.run.fast_dev_run else images


def standard(of: Evaluation) -> float:
    """Train on augmented views, with a forward pass for each step; images per second."""
    config, progress = of.resolved.config, Progress(of.start.folder)
    save = SaveLast(of.start.folder, config, of.data.splits)
    callbacks: list[Callback] = [progress]
    if of.val is not None and not config.linear.finetune:
        callbacks.append(ValidateOnce(of.data.eval_loader(of.train), of.data.eval_loader(of.val)))
    trainer = build_trainer(of.resolved, of.plan, of.start.folder, save, callbacks)
    trainer.fit(of.linear, of.data, ckpt_path=of.start.checkpoint, weights_only=True)
    return progress.images_per_second if rank() == 0 else 0.0  # the first process alone has a clock


def cached(of: Evaluation) -> float:
    """Features of each training image and its mirror, once, then heads on these; images per second of the first."""
    config, linear = of.resolved.config, of.linear.to(of.data.settings.device)
    network = BothFlips(linear.backbone, mirrors=config.views.flip_prob > 0)
    began = time.perf_counter()
    train = _features(of, network, of.train)
    images, flips = train.features.shape[:2]
    seconds = {"features_seconds": time.perf_counter() - began}
    _say(f"features of {images} training images{' and their mirrors' * (flips == 2)}", seconds["features_seconds"])
    fit(linear, train, Course(config.run, of.data.global_batch, config.views.flip_prob, config.data.last_batch_fill))
    seconds["heads_seconds"] = time.perf_counter() - began - seconds["features_seconds"]
    _say(f"{len(linear.pairs)} heads of {of.plan.budget.epochs} epochs", seconds["heads_seconds"])
    if of.val is not None:
        bank = Labelled(train.features[:, 0], train.targets)
        validate(linear, bank, _features(of, linear.backbone, of.val))
    of.data.teardown("fit")
    linear.row = linear.epoch_metrics()
    speed = images * flips / seconds["features_seconds"]
    budget = of.plan.budget
    for logger in build_loggers(of.resolved, of.start.folder):
        logger.log_metrics({"epoch": budget.epochs, "step": budget.steps} | linear.row, budget.steps)
        logger.finalize("success")
    if rank() == 0:
        Table(of.start.folder / "timing.csv").append({"images_per_second": speed, **seconds})
    return speed


PROTOCOLS = {"standard": standard, "cached": cached}


def _features(of: Evaluation, network: torch.nn.Module, images: ImageSet) -> Labelled:
    """With a bar on a terminal."""
    loader, hidden = of.data.eval_loader(images), rank() > 0 or not sys.stdout.isatty()
    bar = tqdm(loader, "features", len(loader), leave=False, unit="batch", disable=hidden, file=sys.stdout)
    return features_of(network, bar, of.data.settings.device)


def _say(what: str, seconds: float) -> None:
    if rank() == 0:
        print(f"{what}: {seconds:.1f} s", flush=True)


def leave(linear: LinearEvaluation, folder: Path) -> None:
    """The trained head, and the accuracies of a grid as a table and a picture."""
    head = {name: value.detach().cpu().contiguous() for name, value in linear.head.state_dict().items()}
    save_file(head, folder / "head.safetensors")
    if len(linear.pairs) > 1:
        (folder / "grid.csv").unlink(missing_ok=True)  # of a run that was killed here
        table = Table(folder / "grid.csv")
        for pair, accuracy in zip(linear.pairs, linear.accuracies, strict=True):
            table.append({"lr": pair.lr, "weight_decay": pair.weight_decay, "held_out_top1": accuracy})
        save_grid(linear.pairs, linear.accuracies, linear.best, folder / "linear_grid.png")
