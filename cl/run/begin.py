"""Where a run begins to leave traces: its folder, the banner, the list of bad images."""

from pathlib import Path
from typing import Any

from cl.cli import Resolved
from cl.data.datamodule import ImageData
from cl.data.manifest import write_bad
from cl.distributed import from_first, rank
from cl.evaluation.linear import LinearEvaluation
from cl.methods import ContrastiveModule
from cl.run.dry_run import dry_run
from cl.run.folder import open_run_folder
from cl.run.launch import prepare
from cl.run.plan import Plan, banner


def begin(
    resolved: Resolved[Any],
    kind: str,
    plan: Plan,
    module: ContrastiveModule[Any] | LinearEvaluation,
    data: ImageData,
    weights: str = "",
) -> Path | None:
    """The run folder, with `module` ready to train in it; None after a dry run, which ends here.

    `weights` says what the backbone starts from.
    """
    config = resolved.config
    folder = from_first(lambda: open_run_folder(resolved, kind))
    if rank() == 0:
        print(banner(resolved, plan, folder, weights), flush=True)
        write_bad(folder / "bad_images.csv", data.splits.bad)
    if config.run.dry_run:
        print(dry_run(resolved, plan, module, data, folder))
        return None
    prepare(module, config.device, plan.devices)
    return folder
