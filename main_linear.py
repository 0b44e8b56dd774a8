"""Evaluate a pretrained backbone: python main_linear.py DATASET ENCODER --pretrained_feature_extractor RUN [flags]."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from cl.cli import parse, run
from cl.config.programs import Linear
from cl.data.folders import check_folders
from cl.errors import UserError
from cl.report import report
from cl.run.seeds import run_each_seed


def main(argv: Sequence[str]) -> None:
    resolved = parse(Linear, argv)
    config = resolved.config
    check_folders(config.data)
    if config.run.seeds:
        sys.exit(run_each_seed(resolved, "linear", report))

    import torch  # here and below: --help and refusals need not wait six seconds for it

    from cl.data.datamodule import ImageData, LoaderSettings
    from cl.data.datasets import load
    from cl.data.view_spec import linear_views
    from cl.distributed import first_rank_first
    from cl.evaluation.linear import LinearEvaluation
    from cl.run.begin import begin
    from cl.run.checkpoint import SaveLast, load_pretrained
    from cl.run.closing import close
    from cl.run.devices import usable_devices
    from cl.run.launch import own_device, share_of
    from cl.run.plan import Plan
    from cl.run.progress import Progress
    from cl.run.trainer import build_trainer

    devices = usable_devices(config)
    share = share_of(config, devices)
    pretrained = load_pretrained(config)
    splits = replace(first_rank_first(lambda: load(config.data)).labelled(), norm=pretrained.norm)
    if not splits.classes:
        raise UserError(f"dataset: got {config.data.dataset} without labels, expected class folders or --labels")
    if config.views.crop_size != pretrained.crop_size:
        note = f"--crop_size {config.views.crop_size}, but the backbone was pretrained at {pretrained.crop_size} pixels"
        splits = replace(splits, notes=(*splits.notes, note))
    views, device = linear_views(config.views), own_device(devices)
    data = ImageData(splits, LoaderSettings(config.data, views, config.run.seed, share, device))
    torch.manual_seed(config.run.seed)
    plan = Plan.of(f"linear evaluation on {config.data.dataset}", config, data, devices)
    linear = LinearEvaluation(pretrained.backbone, plan.classes, config.optim, plan.budget)
    folder = begin(resolved, "linear", plan, linear, data)
    if folder is None:
        return

    progress = Progress(folder)
    trainer = build_trainer(resolved, plan, folder, [progress, SaveLast(folder, config, splits)])
    trainer.fit(linear, data)

    if share.rank > 0:
        return
    columns = {"offline linear": "offline_linear/val_top1", "top-5": "offline_linear/val_top5"}
    print("\n" + close(folder, columns, linear.row, progress.images_per_second))


if __name__ == "__main__":
    run(main)
