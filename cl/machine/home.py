"""The user's folders, which containers, services and compute nodes may lack, or may not be able to write to."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

REPLACEMENT = "CL_TEMPORARY_HOME"  # the variable that holds the temporary folder


def home_folder() -> Path | None:
    """The user's home, if there is one."""
    home = os.environ.get("HOME") or _home_of_passwd()
    missing = not os.path.isabs(home) or not os.path.isdir(home) or home == os.environ.get(REPLACEMENT)
    return None if missing else Path(home)


def cache_folder() -> Path | None:
    """Where this program may keep files that it can make again; data folders are not: they are often read-only."""
    parent = _user_folder("XDG_CACHE_HOME", ".cache")
    return parent / "cl" if parent is not None else None


def replace_missing_folders() -> None:
    """Where libraries could not write their caches, let them use a temporary folder; they print warnings, or fail."""
    _name_the_user()
    config = _user_folder("XDG_CONFIG_HOME", ".config")
    cache = _user_folder("XDG_CACHE_HOME", ".cache")
    home = home_folder()
    used = {  # the variable that moves a library's folders, and the parents of these folders
        "MPLCONFIGDIR": (config, cache),
        "TRITON_CACHE_DIR": (home,),
        "WANDB_CACHE_DIR": (cache,),
        "WANDB_CONFIG_DIR": (config,),
        "WANDB_DATA_DIR": (home,),
    }
    missing = [name for name, parents in used.items() if not all(map(is_writable, parents))]
    missing = [name for name in missing if name not in os.environ]
    if not missing or REPLACEMENT in os.environ:  # a launcher's processes inherit its folder
        return
    try:
        folder = tempfile.mkdtemp(prefix="cl-")
    except OSError:
        return
    atexit.register(_remove, folder, os.getpid())
    os.environ |= {name: os.path.join(folder, name.lower()) for name in missing}
    os.environ[REPLACEMENT] = folder
    if home is None:  # one that is read-only stays: downloaded weights are found in it
        os.environ["HOME"] = folder


def _user_folder(variable: str, name: str) -> Path | None:
    """A folder of the XDG base directories; their standard ignores relative paths."""
    typed = os.environ.get(variable, "")
    if os.path.isabs(typed):
        return Path(typed)
    home = home_folder()
    return home / name if home is not None else None


def _home_of_passwd() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return ""


def _name_the_user() -> None:
    """`getpass.getuser` raises for a user number without an entry, and libraries name their folders after users."""
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):
        os.environ["USER"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"


def is_writable(folder: Path | None) -> bool:
    """Whether a folder exists or can be made, and can be written to."""
    if folder is None:
        return False
    while not os.path.isdir(folder):
        if os.path.lexists(folder):
            return False
        folder = folder.parent
    effective = os.access in os.supports_effective_ids  # with the process's capabilities
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def _remove(folder: str, owner: int) -> None:
    """Called when a process ends; loader workers, which inherit the call, do not own the folder."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
