"""metrics.csv: one row per epoch, without timings, which go to timing.csv. Other loggers may fail."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from cl.distributed import rank
from cl.errors import warn
from cl.machine.extras import how_to_install
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


class GuardedLog(RunLog):
    """A logger whose failure costs one warning and no run: metrics.csv has everything."""

    def __init__(self, folder: Path, tool: str, start: Callable[[], Any]) -> None:
        super().__init__(folder)
        self._tool = tool
        self._run: Any = None  # None after a failure
        self._run = self._guarded(start)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """Call `call`; a failure prints a warning and disables the logger for the rest of the run."""
        try:
            return call()
        except Exception as error:  # of the tool itself, of a network, a service, a thread or a full disk
            self._run = None
            advice = f"; {how_to_install(self._tool.lower())}" if isinstance(error, ModuleNotFoundError) else ""
            reason = f"{type(error).__name__}: {error}{advice}"
            warn(f"{self._tool} is disabled for the rest of the run ({reason})")
            return None
