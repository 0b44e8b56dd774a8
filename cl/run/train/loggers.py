"""metrics.csv: one row per epoch, without timings, which go to timing.csv."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

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

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.json has the flags."""


class CSVLog(RunLog):
    """Writes `metrics.csv`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = Table(folder / "metrics.csv")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._table.append(metrics)
