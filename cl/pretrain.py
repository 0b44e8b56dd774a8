"""Pretrain a backbone without labels, stage by stage: cl-pretrain DATASET ENCODER [flags], or main_contrastive.py."""

import sys
from collections.abc import Sequence

from cl.cli import parse, run
from cl.config.programs import Pretrain
from cl.data.sources.listing import check_folders
from cl.report import report
from cl.run.start.seeds import run_each_seed


def main(argv: Sequence[str]) -> None:
    resolved = parse(Pretrain, argv)
    if resolved.resume and resolved.resume.finished:
        return print(f"{resolved.resume.folder} is finished")
    check_folders(resolved.config.data)
    if resolved.config.run.seeds:
        sys.exit(run_each_seed(resolved, resolved.config.method.method, report))
    # Imports come late: --help and refusals must not wait for torch, nor a launcher of processes for Lightning.
    from cl.run.start.devices import on_devices
    from cl.run.start.processes import join_processes, local_device, must_start_processes, start_processes
    from cl.run.weights.known_inputs import with_known_inputs

    resolved, devices = on_devices(with_known_inputs(resolved))
    if must_start_processes(resolved.config, devices):
        sys.exit(start_processes(devices))
    import torch

    from cl.backbones.timm import check_encoder
    from cl.data.datamodule import ImageData
    from cl.data.settings import pretrain_settings
    from cl.data.sources.registry import load_on_all_ranks
    from cl.distributed import disconnect
    from cl.methods import build_method
    from cl.run.folder.checkpoint import SaveLast
    from cl.run.start.dry_run import dry_run
    from cl.run.start.network import prepare_network, replay_networks
    from cl.run.start.opening import announce, announce_rows, open_run
    from cl.run.start.plan import make_plan
    from cl.run.train.pretraining import SaveResults, closing_text, collapse_alarm, measure_pretraining, pictures
    from cl.run.train.progress import Progress
    from cl.run.train.skipped_steps import SkipNonFinite
    from cl.run.train.teaching import give_targets, with_teacher
    from cl.run.train.trainer import build_trainer

    check_encoder(resolved.config.backbone)
    resolved, teacher = with_teacher(resolved)
    config = resolved.config
    ranks = join_processes(config, devices)
    splits = load_on_all_ranks(config.data, resolved.origins["mean"])
    data = ImageData(splits, pretrain_settings(config, ranks, local_device(devices)))
    torch.manual_seed(config.run.seed)
    plan = make_plan(f"{config.method.method} on {config.data.dataset}", config, data, devices)
    method = build_method(config, plan.classes, plan.budget)
    start = open_run(resolved, config.method.method, plan, data, method)
    announce(resolved, plan, start, data, method.initial_weights)
    announce_rows(give_targets(method, teacher, data, config))
    if config.run.dry_run:
        return print(dry_run(resolved, plan, method, data, start.folder))
    prepare_network(method, config.device, devices, config.data.batch_size)
    save = SaveLast(start.folder, config, data.splits)
    progress = Progress(start.folder)
    alarm = collapse_alarm(config, data, plan)
    measure = measure_pretraining(config, method, data, plan)
    skip = SkipNonFinite(save, config.online.max_skipped_steps)
    callbacks = [measure, progress, alarm, skip, SaveResults(save, progress), *pictures(config, data, start.folder)]
    trainer = build_trainer(resolved, plan, start.folder, save, callbacks)
    # After the trainer, which chooses deterministic kernels, and before it takes the network.
    announce_rows(replay_networks(method, config, devices, data.settings))
    trainer.fit(method, data, ckpt_path=start.checkpoint, weights_only=True)
    disconnect()
    if ranks.rank == 0:
        print(closing_text(resolved, plan, method.row, progress.images_per_second, alarm, start.folder))
    if alarm.stopped:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
