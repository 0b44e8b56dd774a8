"""Measurements, pictures and the closing text of a pretraining run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cl.cli import Resolved
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.images import ImageSet, stratified
from cl.evaluation.online.health import HEALTH_IMAGES, MIN_IMAGES, CollapseAlarm, ProjectionHealth
from cl.evaluation.online.knn import TEMPERATURE, K, OnlineKNN
from cl.evaluation.online.metrics import MeasureEpoch, Measurement, epoch_means
from cl.evaluation.pictures.curves_picture import SaveCurves
from cl.evaluation.pictures.embedding_picture import EMBEDDING_IMAGES, SaveEmbedding
from cl.evaluation.pictures.neighbours_picture import NEIGHBOUR_IMAGES, SaveNeighbours
from cl.evaluation.pictures.views_picture import SaveViews
from cl.methods import ContrastiveModule
from cl.run.folder.checkpoint import SaveLast
from cl.run.folder.closing import closing_table, next_command, worth_command, write_summary
from cl.run.start.plan import Plan
from cl.run.train.progress import Progress
from cl.run.weights.cards import make_card
from cl.run.weights.export import export


class SaveResults(Callback):
    """Exports the evaluated network and writes summary.json at the end of training, before the pictures are drawn."""

    def __init__(self, save: SaveLast, progress: Progress) -> None:
        self.save = save
        self.progress = progress

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ContrastiveModule)
        folder = self.save.path.parent
        if trainer.is_global_zero:
            export(pl_module.evaluated, make_card(self.save.metadata, pl_module.row), folder)
            write_summary(folder, pl_module.row, self.progress.images_per_second)


def measure_pretraining(config: Pretrain, method: ContrastiveModule[Any], data: ImageData, plan: Plan) -> MeasureEpoch:
    """The measurements of an epoch, in the order of the columns of metrics.csv."""
    health = ProjectionHealth(data.views_loader(_health_images(config, data)), method.embed)
    measurements: list[Measurement] = [epoch_means, learning_rate, health]
    if plan.val_images and plan.knn_bank:
        measurements.insert(1, OnlineKNN(data.bank_loader(plan.knn_bank), config.online.knn_every))
    return MeasureEpoch(measurements)


def learning_rate(method: ContrastiveModule[Any]) -> dict[str, float]:
    """The learning rate of the epoch's last step."""
    return {"lr": method.last_lr}


def collapse_alarm(config: Pretrain, data: ImageData, plan: Plan) -> CollapseAlarm:
    images_per_loss = plan.budget.global_batch // plan.losses_per_step
    return CollapseAlarm(
        images=len(_health_images(config, data)),
        dim=config.method.proj_output_dim,
        steps=plan.budget.steps,
        stop=config.online.stop_on_collapse,
        level=config.method.collapse_level(images_per_loss) if images_per_loss >= MIN_IMAGES else None,
    )


def pictures(config: Pretrain, data: ImageData, folder: Path) -> list[Callback]:
    """Views of the first batch, curves during training, and neighbours and the embedding at the end."""
    splits = data.splits
    searched = _sample(NEIGHBOUR_IMAGES, splits.train, config)
    shown = _sample(EMBEDDING_IMAGES, splits.val or splits.train, config)
    split = "validation" if splits.val else "training"
    return [
        SaveCurves(folder / "metrics.csv", folder / "curves.png"),
        SaveViews(splits.train, splits.norm, folder / "views.png"),
        SaveNeighbours(searched, data.eval_loader(searched), splits.classes, folder / "neighbours.png"),
        SaveEmbedding(shown, data.eval_loader(shown), splits.classes, split, folder / "embedding.png"),
    ]


def closing_text(
    resolved: Resolved[Pretrain],
    plan: Plan,
    row: Mapping[str, float],
    images_per_second: float,
    alarm: CollapseAlarm,
    folder: Path,
) -> str:
    """The last epoch's table, the collapse verdict and, unless the alarm stopped the run, the next commands."""
    columns = {
        "online linear": "online_linear/val_top1",
        f"kNN (k {min(K, plan.knn_bank) or K}, T {TEMPERATURE})": "knn/val_top1",
        "std x sqrt(d)": "health/std",
        "rank": "health/rank",
    }
    texts = [closing_table(columns, row, images_per_second, folder), alarm.text]
    if not alarm.stopped:
        texts.append(worth_command(folder))
        texts.append(next_command(resolved, folder, labelled=plan.classes > 0))
    return "".join(f"\n{text}\n" for text in texts if text).rstrip("\n")


def _health_images(config: Pretrain, data: ImageData) -> ImageSet:
    return _sample(HEALTH_IMAGES, data.splits.val or data.splits.train, config)


def _sample(count: int, images: ImageSet, config: Pretrain) -> ImageSet:
    """A stratified sample of at most `count` images, or of one batch under --fast_dev_run."""
    return stratified(images, config.data.batch_size if config.run.fast_dev_run else count)
