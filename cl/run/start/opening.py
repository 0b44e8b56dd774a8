"""Open the run folder, find the checkpoint to resume from, and print the banner."""

from collections.abc import Mapping
from typing import Any

from cl.cli import Resolved
from cl.data.datamodule import ImageData
from cl.data.sources.manifest import write_bad_images
from cl.distributed import broadcast_from_rank_zero, rank
from cl.nn.batch_norm import has_batch_norm
from cl.run.folder.held_out import write_held_out
from cl.run.folder.resume_point import StartingPoint, find_resume_point, remove_later_rows
from cl.run.folder.run_folder import open_run_folder
from cl.run.folder.same_run import Identity
from cl.run.start.banner import banner, row_lines
from cl.run.start.network import TrainedModule, depends_on_processes
from cl.run.start.plan import Plan


def open_run(resolved: Resolved[Any], kind: str, plan: Plan, data: ImageData, module: TrainedModule) -> StartingPoint:
    """The run's folder and the checkpoint to resume from; rank 0 decides for all processes."""
    return broadcast_from_rank_zero(lambda: _open(resolved, kind, plan, data, module))


def _open(resolved: Resolved[Any], kind: str, plan: Plan, data: ImageData, module: TrainedModule) -> StartingPoint:
    resume = resolved.resume
    if resume is None or resolved.config.run.dry_run:
        return StartingPoint(open_run_folder(resolved, kind, data.splits, str(plan.devices)))
    run = Identity(
        config=resolved.config,
        splits=data.splits,
        weights=module.state_dict().keys(),
        depends_on_processes=depends_on_processes(module, resolved.config.device),
        normalises=has_batch_norm(module.backbone),
    )
    start = find_resume_point(resume, run, plan.budget.steps)
    open_run_folder(resolved, kind, data.splits, str(plan.devices))
    remove_later_rows(start)
    return start


def announce(resolved: Resolved[Any], plan: Plan, start: StartingPoint, data: ImageData, weights: str = "") -> None:
    """Print the banner and write bad_images.csv, on rank 0."""
    data.broken.file = start.folder / "bad_images.csv"
    if rank() == 0:
        print(banner(resolved, plan, start, weights), flush=True)
        write_bad_images(data.broken.file, data.splits.bad)
        write_held_out(start.folder, data.splits.held_out)


def announce_rows(rows: Mapping[str, str]) -> None:
    """Print what is known only after the banner, on rank 0."""
    if rank() == 0:
        for name, text in rows.items():
            print("\n".join(row_lines(name, text)), flush=True)
