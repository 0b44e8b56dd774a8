"""The image folders that the flags name. Imports no torch: a missing folder is told before anything is loaded."""

from pathlib import Path

from cl.config.data import DataConfig
from cl.errors import UserError

BUILT_IN = ("digits",)


def check_folders(config: DataConfig) -> None:
    """UserError unless every folder that the run would read is there and has something in it."""
    named = {"train_dir": config.train_dir, "val_dir": config.val_dir}
    if config.dataset in BUILT_IN:
        for flag, folder in ({"data_folder": config.data_folder} | named).items():
            if folder is not None:
                raise UserError(f"--{flag}: got {folder}, expected no folder: {config.dataset} comes with the program")
        return
    if config.data_folder is not None:
        _check_folder("data_folder", Path(config.data_folder))
    if config.train_dir is None:
        raise UserError(f"--train_dir: not given, expected the folder of {config.dataset}'s training images")
    for flag, folder in named.items():
        if folder is not None:
            _check_folder(flag, Path(config.data_folder or "") / folder)


def _check_folder(flag: str, folder: Path) -> None:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError(f"--{flag}: got {folder}, expected a folder; there is {found} at that path")
    if not any(folder.iterdir()):
        raise UserError(f"--{flag}: got {folder}, expected images in it; it is empty")
