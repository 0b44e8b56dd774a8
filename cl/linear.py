"""Evaluate a pretrained backbone, stage by stage: cl-linear DATASET ENCODER --pretrained_feature_extractor RUN."""

import sys
from collections.abc import Sequence

from cl.cli import parse, run
from cl.config.programs import Linear
from cl.data.sources.listing import check_folders
from cl.report import report
from cl.run.start.seeds import run_each_seed


def main(argv: Sequence[str]) -> None:
    resolved = parse(Linear, argv)
    if resolved.resume and resolved.resume.finished:
        return print(f"{resolved.resume.folder} is finished")
    check_folders(resolved.config.data)
    if resolved.config.run.seeds:
        sys.exit(run_each_seed(resolved, "linear", report))
    # Imports come late: --help and refusals must not wait for torch, nor a launcher of processes for Lightning.
    from cl.run.start.devices import on_devices
    from cl.run.start.processes import join_processes, local_device, must_start_processes, start_processes
    from cl.run.weights.known_inputs import with_known_inputs

    resolved, devices = on_devices(with_known_inputs(resolved))
    config = resolved.config
    if must_start_processes(config, devices):
        sys.exit(start_processes(devices))
    import torch

    from cl.data.sources.registry import load_on_all_ranks
    from cl.distributed import disconnect
    from cl.evaluation.offline.cached_protocol import evaluate_cached
    from cl.evaluation.offline.frozen_check import check_unchanged, snapshot
    from cl.evaluation.offline.label_split import evaluation_data, labelled_splits
    from cl.evaluation.offline.linear_evaluation import LinearEvaluation
    from cl.evaluation.offline.standard_protocol import measure_linear
    from cl.run.folder.checkpoint import SaveLast
    from cl.run.folder.linear_results import linear_text, save_linear_results
    from cl.run.start.dry_run import dry_run
    from cl.run.start.network import prepare_network
    from cl.run.start.opening import announce, open_run
    from cl.run.start.plan import make_plan
    from cl.run.train.progress import Progress
    from cl.run.train.trainer import build_trainer, log_cached
    from cl.run.weights.load import load_pretrained

    ranks = join_processes(config, devices)
    pretrained = load_pretrained(config)
    splits = labelled_splits(load_on_all_ranks(config.data, resolved.origins["mean"]), config)
    data = evaluation_data(splits, config, ranks, local_device(devices))
    torch.manual_seed(config.run.seed)
    plan = make_plan(f"linear evaluation on {config.data.dataset}", config, data, devices)
    linear = LinearEvaluation(pretrained.backbone, plan.classes, config, plan.budget)
    start = open_run(resolved, "linear", plan, data, linear)
    announce(resolved, plan, start, data, pretrained.report)
    if config.run.dry_run:
        return print(dry_run(resolved, plan, linear, data, start.folder))

    prepare_network(linear, config.device, devices, config.data.batch_size)
    loaded = snapshot(linear.backbone)
    if config.linear.protocol == "cached":
        result = evaluate_cached(linear, data, config)
        images_per_second = log_cached(result, resolved, plan, start.folder)
    else:
        progress = Progress(start.folder)
        save = SaveLast(start.folder, config, data.splits)
        trainer = build_trainer(resolved, plan, start.folder, save, [measure_linear(data, config), progress])
        trainer.fit(linear, data, ckpt_path=start.checkpoint, weights_only=True)
        images_per_second = progress.images_per_second
    if not config.linear.finetune:
        check_unchanged(linear.backbone, loaded)
    disconnect()
    if ranks.rank == 0:
        save_linear_results(linear, images_per_second, start.folder)
        print(linear_text(linear, images_per_second, len(splits.train), start.folder))


if __name__ == "__main__":
    run(main)
