"""`held_out.txt`: the training images that --hold_out kept from the training, one path a line."""

from collections.abc import Sequence
from pathlib import Path

from cl.run.folder.atomic_files import write_or_stop

HELD_OUT = "held_out.txt"


def write_held_out(folder: Path, files: Sequence[str]) -> None:
    """Write the list; nothing without --hold_out."""
    if files:
        write_or_stop(folder / HELD_OUT, lambda file: file.write(_lines(files)))


def same_held_out(folder: Path, files: Sequence[str]) -> bool:
    """Whether the run in `folder` held out these files."""
    try:
        return (folder / HELD_OUT).read_bytes() == _lines(files)
    except OSError:
        return False


def _lines(files: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in files).encode(errors="surrogateescape")
