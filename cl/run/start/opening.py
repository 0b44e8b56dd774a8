"""Where a run begins to leave traces: its folder, the banner, the list of bad images."""

from collections.abc import Collection
from typing import Any

from cl.cli import Resolved
from cl.data.datamodule import ImageData
from cl.data.sources.manifest import write_bad
from cl.distributed import from_first, rank
from cl.evaluation.offline.linear_evaluation import LinearEvaluation
from cl.methods import ContrastiveModule
from cl.run.folder.resume_point import Start, set_back, start_of
from cl.run.folder.run_folder import open_run_folder
from cl.run.start.dry_run import dry_run
from cl.run.start.plan import Plan, banner
from cl.run.start.processes import prepare


def begin(
    resolved: Resolved[Any],
    kind: str,
    plan: Plan,
    module: ContrastiveModule[Any] | LinearEvaluation,
    data: ImageData,
    weights: str = "",
) -> Start | None:
    """Where the run starts, with `module` ready to train; None after a dry run, which ends here.

    `weights` says what the backbone starts from.
    """
    config = resolved.config
    start = from_first(lambda: _open(resolved, kind, plan, data, module.state_dict().keys()))
    if rank() == 0:
        print(banner(resolved, plan, start, weights), flush=True)
        write_bad(start.folder / "bad_images.csv", data.splits.bad)
    if config.run.dry_run:
        print(dry_run(resolved, plan, module, data, start.folder))
        return None
    prepare(module, config.device, plan.devices)
    return start


def _open(resolved: Resolved[Any], kind: str, plan: Plan, data: ImageData, weights: Collection[str]) -> Start:
    resume = resolved.resume
    if resume is None or resolved.config.run.dry_run:
        return Start(open_run_folder(resolved, kind))
    start = start_of(resume, resolved.config, data.splits, plan.budget.steps, weights)
    open_run_folder(resolved, kind)
    set_back(start)
    return start
