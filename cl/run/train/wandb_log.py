"""wandb logging (--project or --wandb). If wandb fails, the run continues: metrics.csv has everything."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl.config.run import RunConfig
from cl.errors import one_line
from cl.run.train.loggers import GuardedLog

TIMEOUT = 30  # seconds for wandb's server


class WandbLog(GuardedLog):
    """Logs to wandb, offline if there is no login or network; the wandb id is the run folder's name."""

    def __init__(self, config: RunConfig, folder: Path, values: Mapping[str, Any]) -> None:
        super().__init__(folder, "wandb", lambda: _start(config, folder, values))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._run is not None:
            self._guarded(lambda: self._run.log(dict(metrics), step=step))

    def finalize(self, status: str) -> None:
        run = self._run
        self._run = None
        if run is not None:
            self._guarded(run.finish)
            if run.settings.mode == "offline":
                print(f"\nwandb ran offline; to upload: wandb sync {run.settings.sync_dir}")


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
            config={name: one_line(value) if isinstance(value, str) else value for name, value in values.items()},
            settings=wandb.Settings(silent=True, console="off", init_timeout=TIMEOUT),
        )

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    try:
        return start(mode)
    except wandb.errors.CommError:
        return start("offline")
