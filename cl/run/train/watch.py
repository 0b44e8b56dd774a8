"""What looks at a pretraining while it runs, in the order in which it looks."""

from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Callback

from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.images import stratified
from cl.evaluation.online.health import IMAGES, Diagnostics
from cl.evaluation.online.knn import TEMPERATURE, K, OnlineKNN
from cl.evaluation.pictures.curves_picture import SaveCurves
from cl.evaluation.pictures.embedding_picture import SHOWN, SaveEmbedding
from cl.evaluation.pictures.views_picture import SEARCHED, SaveNeighbours, SaveViews
from cl.methods import ContrastiveModule
from cl.run.folder.checkpoint import SaveLast
from cl.run.start.plan import Plan
from cl.run.train.progress import Progress
from cl.run.train.skipped_steps import SkipNonFinite


class Watch(NamedTuple):
    callbacks: list[Callback]
    save: SaveLast
    diagnostics: Diagnostics
    progress: Progress
    columns: dict[str, str]  # of the closing table: heading -> metric


def watch(config: Pretrain, method: ContrastiveModule[Any], data: ImageData, plan: Plan, folder: Path) -> Watch:
    """Diagnostics, progress, kNN, pictures and checkpoints of a run."""
    splits = data.splits
    few = config.data.batch_size if config.run.fast_dev_run else None
    some, watched = stratified(splits.train, few or SEARCHED), stratified(splits.val or splits.train, few or IMAGES)
    shown, which = stratified(splits.val or splits.train, few or SHOWN), "validation" if splits.val else "training"
    views, stop = data.views_loader(watched), config.online.stop_on_collapse
    diagnostics, progress = Diagnostics(views, method.embed, plan.budget.steps, stop), Progress(folder)
    save = SaveLast(folder, config, splits)
    callbacks = [
        SaveCurves(folder / "metrics.csv", folder / "curves.png"),  # before `progress`, which times the epochs
        diagnostics,
        progress,
        OnlineKNN(data.bank_loader(plan.bank), config.online.knn_every),
        SaveViews(splits.train, splits.norm, folder / "views.png"),
        SaveNeighbours(some, data.eval_loader(some), splits.classes, folder / "neighbours.png"),
        SaveEmbedding(data.eval_loader(shown), splits.classes, which, folder / "embedding.png"),
        SkipNonFinite(save, config.online.max_skipped_steps),
    ]
    columns = {
        "online linear": "online_linear/val_top1",
        f"kNN (k {min(K, plan.bank) or K}, T {TEMPERATURE})": "knn/val_top1",
        "std x sqrt(d)": "health/std",
        "rank": "health/rank",
    }
    return Watch(callbacks, save, diagnostics, progress, columns)
