"""Pretrain a backbone without labels: python main_contrastive.py DATASET ENCODER [flags]; --help lists them."""

import sys
from collections.abc import Sequence

from cl.cli import parse, run
from cl.config.programs import Pretrain
from cl.data.sources.listing import check_folders
from cl.report import report
from cl.run.start.seeds import run_each_seed


def main(argv: Sequence[str]) -> None:
    resolved = parse(Pretrain, argv)
    config = resolved.config
    if resolved.resume and resolved.resume.finished:
        return print(f"{resolved.resume.folder} is finished")
    check_folders(config.data)
    if config.run.seeds:
        sys.exit(run_each_seed(resolved, config.method.method, report))

    import torch  # here and below: --help and refusals need not wait six seconds for it

    from cl.backbones.loading import start_from
    from cl.backbones.timm import check_name
    from cl.data.datamodule import ImageData, LoaderSettings
    from cl.data.sources.registry import load
    from cl.data.views.spec import pretrain_views
    from cl.distributed import disconnect, first_rank_first
    from cl.methods import build_method
    from cl.run.folder.export import export
    from cl.run.folder.load import card_of
    from cl.run.folder.summary import close, next_step
    from cl.run.start.devices import usable_devices
    from cl.run.start.opening import begin
    from cl.run.start.plan import Plan
    from cl.run.start.processes import own_device, share_of
    from cl.run.train.trainer import build_trainer
    from cl.run.train.watch import watch

    devices = usable_devices(config)
    if config.backbone.timm_name is not None:
        check_name(config.backbone.timm_name, "encoder")
    share = share_of(config, devices)
    splits = first_rank_first(lambda: load(config.data))
    batches = config.optim.accumulate, config.batches_per_loss
    views, device = pretrain_views(config.views), own_device(devices)
    feed = LoaderSettings(config.data, views, config.run.seed, share, device, *batches)
    data = ImageData(splits, feed)
    torch.manual_seed(config.run.seed)
    plan = Plan.of(f"{config.method.method} on {config.data.dataset}", config, data, devices)
    method = build_method(config, plan.classes, plan.budget)
    weights = ""
    if config.backbone.init_from:
        weights = start_from(method.backbone, config.backbone, config.views.crop_size, config.data.in_channels)
    start = begin(resolved, config.method.method, plan, method, data, weights)
    if start is None:
        return

    folder = start.folder
    watched = watch(config, method, data, plan, folder)
    trainer = build_trainer(resolved, plan, folder, watched.save, watched.callbacks)
    trainer.fit(method, data, ckpt_path=start.checkpoint, weights_only=True)
    disconnect()

    if share.rank == 0:
        export(method.backbone, card_of(watched.save.facts, method.row), folder)
        print("\n" + close(folder, watched.columns, method.row, watched.progress.images_per_second))
        if watched.diagnostics.last:
            print("\n" + watched.diagnostics.last.text)
        if not watched.diagnostics.stopped:
            print("\n" + next_step(resolved, folder, labelled=bool(splits.classes)))
    if watched.diagnostics.stopped:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
