"""wandb, when --project or --wandb asks for it. Whatever happens to it, the run goes on: metrics.csv has everything."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from cl.config.run import RunConfig
from cl.run.train.loggers import RunLog

PATIENCE = 30  # seconds for wandb's server


class WandbLog(RunLog):
    """Lightning's way to wandb: online, or offline without a login or a network. The id is the run folder's name."""

    def __init__(self, config: RunConfig, folder: Path, values: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self._run = self._guarded(lambda: _start(config, folder, values))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._run is not None:
            self._guarded(lambda: self._run.log(dict(metrics), step=step))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._guarded(run.finish)
            if run.settings.mode == "offline":
                print(f"\nwandb ran offline; to upload: wandb sync {run.settings.sync_dir}")

    def _guarded(self, call: Any) -> Any:
        """Call it; a failure is a warning, and the end of wandb in this run."""
        try:
            return call()
        except Exception as error:  # wandb raises its own, the network's and its service's errors
            self._run = None
            print(f"warning: wandb is off from here on ({type(error).__name__}: {error})", file=sys.stderr)
            return None


def _start(config: RunConfig, folder: Path, values: Mapping[str, Any]) -> Any:
    import wandb

    def start(mode: Any) -> Any:
        return wandb.init(
            project=config.project or "cl",
            name=config.name,
            id=folder.name,
            resume="allow",
            mode=mode,
            dir=str(folder),
            config=dict(values),
            settings=wandb.Settings(silent=True, console="off", init_timeout=PATIENCE),
        )

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    try:
        return start(mode)
    except wandb.errors.CommError:
        return start("offline")
