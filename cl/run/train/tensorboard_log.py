"""TensorBoard logging (--tensorboard), in the folder `tensorboard` of the run. If it fails, the run continues."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from cl.run.folder.tables import Table
from cl.run.train.loggers import GuardedLog


class TensorBoardLog(GuardedLog):
    """Logs each row of metrics.csv, and at the end the pictures of the run."""

    def __init__(self, folder: Path) -> None:
        self._step = _last_step(folder)
        super().__init__(folder, "TensorBoard", lambda: _start(folder, self._step))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._step = step or self._step
        if self._run is not None:
            self._guarded(lambda: _write_row(self._run, metrics, self._step))

    def finalize(self, status: str) -> None:
        writer = self._run
        self._run = None
        if writer is not None:
            self._guarded(lambda: _finish(writer, self._folder, self._step))


def _start(folder: Path, step: int) -> Any:
    """A writer that continues after `step`: what a killed process wrote after its last checkpoint is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)


def _last_step(folder: Path) -> int:
    """The step of the last row of metrics.csv, of which a resumed run has kept the rows up to its checkpoint."""
    rows = Table(folder / "metrics.csv").rows
    return int(float(rows[-1]["step"])) if rows else 0


def _write_row(writer: Any, metrics: Mapping[str, float], step: int) -> None:
    for name, value in metrics.items():
        if name != "step":
            writer.add_scalar(name, value, step)
    writer.flush()


def _finish(writer: Any, folder: Path, step: int) -> None:
    """Log the pictures that were drawn, and close."""
    try:
        for path in sorted(folder.glob("*.png")):
            with suppress(UnidentifiedImageError), Image.open(path) as picture:
                writer.add_image(path.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
    finally:
        writer.close()
