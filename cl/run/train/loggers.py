"""metrics.csv: one row per epoch, without anything that was timed (times go to timing.csv)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from cl.run.folder.tables import Table


class RunLog(Logger):
    """A logger of a run folder, under the folder's name."""

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
        """Nothing: config.json has them."""


class CSVLog(RunLog):
    """Writes `metrics.csv`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = Table(folder / "metrics.csv")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._table.append(metrics)
