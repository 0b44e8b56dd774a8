"""Pretrain a backbone without labels: python main_contrastive.py DATASET ENCODER [flags]; --help lists them."""

import sys
from collections.abc import Sequence

from cl.cli import parse, run
from cl.config.programs import Pretrain
from cl.data.folders import check_folders


def main(argv: Sequence[str]) -> None:
    resolved = parse(Pretrain, argv)
    config = resolved.config
    check_folders(config.data)

    import torch  # here and below: --help and refusals need not wait six seconds for it

    from cl.backbones.weights import start_from
    from cl.data.datamodule import ImageData, LoaderSettings
    from cl.data.datasets import load
    from cl.data.image_sets import stratified
    from cl.data.manifest import write_bad
    from cl.data.view_spec import pretrain_views
    from cl.distributed import first_rank_first, from_first
    from cl.evaluation.diagnostics import IMAGES, Diagnostics
    from cl.evaluation.knn import TEMPERATURE, K, OnlineKNN
    from cl.evaluation.plots import SEARCHED, SaveNeighbours, SaveViews
    from cl.methods import build_method
    from cl.run.checkpoint import SaveLast
    from cl.run.closing import close, next_step
    from cl.run.devices import usable_devices
    from cl.run.folder import open_run_folder
    from cl.run.launch import prepare, share_of
    from cl.run.plan import Plan, banner, dry_run
    from cl.run.progress import Progress
    from cl.run.trainer import build_trainer

    devices = usable_devices(config)
    share = share_of(config, devices)
    splits = first_rank_first(lambda: load(config.data))
    batches = config.optim.accumulate, config.batches_per_loss
    feed = LoaderSettings(config.data, pretrain_views(config.views), config.run.seed, share, *batches)
    data = ImageData(splits, feed)
    torch.manual_seed(config.run.seed)
    plan = Plan.of(f"{config.method.method} on {config.data.dataset}", config, data, devices)
    method = build_method(config, plan.classes, plan.budget)
    if config.backbone.init_from:
        start_from(method.backbone, config.backbone)
    folder = from_first(lambda: open_run_folder(resolved, config.method.method))
    if share.rank == 0:
        print(banner(resolved, plan, folder), flush=True)
        write_bad(folder / "bad_images.csv", splits.bad)
    if config.run.dry_run:
        return print(dry_run(method, data, devices.first, folder))
    prepare(method, config.device, devices)

    few = config.data.batch_size if config.run.fast_dev_run else None
    some, watched = stratified(splits.train, few or SEARCHED), stratified(splits.val or splits.train, few or IMAGES)
    watch = data.views_loader(watched)
    diagnostics = Diagnostics(watch, method.embed, plan.budget.steps, config.online.stop_on_collapse)
    progress = Progress(folder)
    callbacks = [
        diagnostics,
        progress,
        OnlineKNN(data.bank_loader(plan.bank), config.online.knn_every),
        SaveViews(splits.train, splits.norm, folder / "views.png"),
        SaveNeighbours(some, data.eval_loader(some), splits.classes, folder / "neighbours.png"),
        SaveLast(folder, config, splits),
    ]
    trainer = build_trainer(resolved, plan, folder, callbacks)
    trainer.fit(method, data)

    if share.rank > 0:
        sys.exit(diagnostics.stopped)
    columns = {
        "online linear": "online_linear/val_top1",
        f"kNN (k {min(K, plan.bank) or K}, T {TEMPERATURE})": "knn/val_top1",
        "std x sqrt(d)": "health/std",
        "rank": "health/rank",
    }
    print("\n" + close(folder, columns, method.row, progress.images_per_second))
    if diagnostics.last:
        print("\n" + diagnostics.last.text)
    if diagnostics.stopped:
        sys.exit(1)
    print("\n" + next_step(resolved, folder, labelled=bool(splits.classes)))


if __name__ == "__main__":
    run(main)
