"""Evaluate a pretrained backbone: python main_linear.py DATASET ENCODER --pretrained_feature_extractor RUN [flags]."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from cl.cli import parse, run
from cl.config.programs import Linear
from cl.data.sources.listing import check_folders
from cl.errors import UserError
from cl.report import report
from cl.run.start.seeds import run_each_seed


def main(argv: Sequence[str]) -> None:
    resolved = parse(Linear, argv)
    config = resolved.config
    if resolved.resume and resolved.resume.finished:
        return print(f"{resolved.resume.folder} is finished")
    check_folders(config.data)
    if config.run.seeds:
        sys.exit(run_each_seed(resolved, "linear", report))

    import torch  # here and below: --help and refusals need not wait six seconds for it

    from cl.data.datamodule import ImageData, LoaderSettings
    from cl.data.sources.registry import load
    from cl.data.views.spec import linear_views
    from cl.distributed import disconnect, first_rank_first
    from cl.evaluation.offline.frozen_check import check_unchanged, copy_of
    from cl.evaluation.offline.label_split import GridData, with_labels
    from cl.evaluation.offline.linear_evaluation import LinearEvaluation
    from cl.run.folder.load import load_pretrained
    from cl.run.folder.summary import close, picked, probe_table
    from cl.run.start.devices import usable_devices
    from cl.run.start.opening import begin
    from cl.run.start.plan import Plan
    from cl.run.start.processes import own_device, share_of
    from cl.run.train.protocols import PROTOCOLS, Evaluation, leave

    devices = usable_devices(config)
    share = share_of(config, devices)
    pretrained = load_pretrained(config)
    splits = first_rank_first(lambda: load(config.data)).labelled()
    splits = replace(splits, norm=pretrained.norm or splits.norm)
    if not splits.classes:
        raise UserError(f"dataset: got {config.data.dataset} without labels, expected class folders or --labels")
    if pretrained.crop_size not in (None, config.views.crop_size):
        note = f"--crop_size {config.views.crop_size}, but the backbone was pretrained at {pretrained.crop_size} pixels"
        splits = replace(splits, notes=(*splits.notes, note))
    splits = with_labels(splits, config.linear.label_fraction, config.run.seed)
    views, device = linear_views(config.views), own_device(devices)
    settings = LoaderSettings(config.data, views, config.run.seed, share, device)
    data = GridData(splits, settings) if config.holds_out else ImageData(splits, settings)
    torch.manual_seed(config.run.seed)
    plan = Plan.of(f"linear evaluation on {config.data.dataset}", config, data, devices)
    before = copy_of(pretrained.backbone)
    linear = LinearEvaluation(pretrained.backbone, plan.classes, config, plan.budget)
    start = begin(resolved, "linear", plan, linear, data, pretrained.report)
    if start is None:
        return

    images_per_second = PROTOCOLS[config.linear.protocol](Evaluation(resolved, plan, data, linear, start))
    if not config.linear.finetune:
        check_unchanged(linear.backbone, before)
    disconnect()

    if share.rank > 0:
        return
    leave(linear, start.folder)
    columns = {linear.name.replace("_", " "): f"{linear.name}/val_top1", "top-5": f"{linear.name}/val_top5"}
    table = close(start.folder, columns, linear.row, images_per_second)
    for text in filter(None, (table, probe_table(linear.row, len(splits.train)), picked(linear))):
        print("\n" + text)


if __name__ == "__main__":
    run(main)
