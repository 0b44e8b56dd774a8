"""metrics.csv: one row per epoch, without timings, which go to timing.csv."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from cl.distributed import rank
from cl.run.folder.tables import Table


class RunLog(Logger):
    """A logger named after the run folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @property
    def name(self) -> str:
        return self._folder.parent.name

    @property
    def version(self) -> str:
        return self._folder.name

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.json has the flags."""


class CSVLog(RunLog):
    """Writes `metrics.csv`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = Table(folder / "metrics.csv")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if rank() == 0:
            self._table.append(metrics)
