"""No home, one that cannot be written to, or a full one: what is optional there stays optional."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from cl import selfcheck
from cl.data.sources import manifest
from cl.errors import UserError
from cl.machine import home
from cl.machine.home import REPLACEMENT, cache_folder, home_folder, replace_missing_folders
from tests.conftest import ROOT, Run
from tests.pictures import write_classes
from tests.programs import Done

LIBRARIES = ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
FLAGS = ["custom", "resnet18", "--crop_size", "16", "--batch_size", "8", "--accelerator", "cpu", "--num_workers", "1"]
FLAGS += ["--train_dir", "train", "--val_dir", "val", "--fast_dev_run"]
NET = ["--width", "4", "--proj_hidden_dim", "16"]


@pytest.fixture
def no_passwd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user number that no passwd entry has, without variables that name folders or the user."""
    import pwd

    def missing(number: int) -> object:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", REPLACEMENT)
    for name in (*names, *LIBRARIES):
        monkeypatch.setenv(name, "")  # so that the test's own changes are undone
        monkeypatch.delenv(name)


def test_a_home_is_an_existing_folder_with_an_absolute_path(
    no_passwd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for value in ("", "relative", str(tmp_path / "missing"), str(tmp_path / "file")):
        monkeypatch.setenv("HOME", value)
        assert home_folder() is None, value
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder() == tmp_path


@pytest.mark.parametrize("ignored", ["", "relative", "./x"])
def test_a_relative_xdg_cache_home_is_ignored(
    ignored: str, no_passwd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", ignored)
    assert cache_folder() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/cl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own/cl"


def test_libraries_get_a_temporary_folder_only_where_their_own_cannot_be_written_to(
    no_passwd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    replace_missing_folders()
    assert not any(name in os.environ for name in LIBRARIES)
    (tmp_path / ".config").touch()  # a file where the folder should be
    monkeypatch.setenv("WANDB_CONFIG_DIR", "typed")
    replace_missing_folders()
    assert [name for name in LIBRARIES if name in os.environ] == ["MPLCONFIGDIR", "WANDB_CONFIG_DIR"]
    assert os.environ["WANDB_CONFIG_DIR"] == "typed"
    assert os.environ["HOME"] == str(tmp_path)


def test_without_a_home_and_a_user_both_are_replaced_but_nothing_is_kept_there(
    no_passwd: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_missing_folders()
    assert Path.home().is_dir()
    assert os.environ["USER"] == f"user{os.getuid()}"
    assert (home_folder(), cache_folder()) == (None, None)
    assert all(name in os.environ for name in LIBRARIES)


def test_no_temporary_folder_either_is_no_error(no_passwd: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(home.tempfile, "mkdtemp", refuse)
    replace_missing_folders()
    assert not any(name in os.environ for name in LIBRARIES)


def test_selfcheck_names_tmpdir_if_there_is_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(selfcheck.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match="TMPDIR: expected a folder that can be written to"):
        selfcheck.main([])


def test_selfcheck_refuses_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--accelerator: got gpu, but torch finds no GPU on this machine"):
        selfcheck.main(["--accelerator", "gpu"])


def test_a_check_that_cannot_be_remembered_is_still_right(
    no_passwd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    assert list(manifest.bad_files(tmp_path, ["broken.png"], 3)) == ["broken.png"]
    for cache in ("/proc/no/such", str(tmp_path / "broken.png"), "/dev/full"):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert list(manifest.bad_files(tmp_path, ["broken.png"], 3)) == ["broken.png"]


def test_a_manifest_that_cannot_be_cleaned_up_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only file system refuses every change, also that of a file that does not exist."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("write_text", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    assert manifest.bad_files(tmp_path, ["missing.png"], 3) != {}


def test_a_tilde_in_a_path_is_the_home_folder(no_passwd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl.cli import parse
    from cl.config.programs import Pretrain

    argv = ["digits", "resnet18", "--output_dir=~/runs", "--cache_dir=~", "--name", "a"]
    with pytest.raises(UserError, match="--output_dir: got ~/runs, but there is no home folder"):
        parse(Pretrain, argv)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(Pretrain, argv).config
    assert (config.run.output_dir, config.data.cache_dir) == (f"{tmp_path}/runs", str(tmp_path))


def test_a_complete_cache_is_used_where_nothing_can_be_written(folder: Path, run: Run) -> None:
    write_classes(folder / "train", {"a": 12, "b": 12})
    write_classes(folder / "val", {"a": 4, "b": 4})
    flags = [*FLAGS, *NET, "--loader", "torchvision", "--cache", "raw256", "--cache_dir", "cache"]
    assert run("main_contrastive.py", *flags, "--run_id", "first")[0] == 0
    for lock in (folder / "cache").glob(".*.lock"):
        lock.unlink()
        lock.mkdir()  # cannot be opened, not even by root
    code, _, err = run("main_contrastive.py", *flags, "--run_id", "second")
    assert (code, err) == (0, "")


def odd_machine(kind: str, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Done:
    """Run Python on a machine whose home is missing or read-only, as another user or with a private mount."""
    wrapper = {
        "read_only_home": ["unshare", "-m", "bash", "-c", 'mount --bind "$HOME" "$HOME" && '
                           'mount -o remount,ro,bind "$HOME" && exec "$@"', "_"],
        "no_home": ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups",
                    "--inh-caps", "+dac_override,+dac_read_search", "--ambient-caps", "+dac_override,+dac_read_search",
                    "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "XDG_CACHE_HOME"],
        "missing_home": ["env", "HOME=/no/such/folder", "XDG_CACHE_HOME=relative"],
    }[kind]  # fmt: skip
    variables = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [*wrapper, sys.executable, *arguments]
    try:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip(f"{wrapper[0]} is not installed")
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("kind", ["read_only_home", pytest.param("missing_home", marks=pytest.mark.slow)])
def test_a_run_needs_no_home_to_write_to(kind: str, tmp_path: Path) -> None:
    assert_works(kind, tmp_path, PROGRAMS[:1])


def test_every_program_works_for_a_user_without_a_home(tmp_path: Path) -> None:
    assert_works("no_home", tmp_path, PROGRAMS)
    with np.load(tmp_path / "features.npz") as arrays:
        assert len(arrays["paths"]) == 24


RUN = "trained_models/run"
PROGRAMS = [
    [str(ROOT / "main_contrastive.py"), *FLAGS, *NET, "--run_id", "run"],
    [str(ROOT / "main_linear.py"), *FLAGS, "--pretrained_feature_extractor", RUN, "--run_id", "linear"],
    ["-m", "cl.embed", RUN, "train", "--out", "features.npz", "--num_workers", "1", "--accelerator", "cpu"],
    ["-m", "cl.report", "trained_models"],
]


def assert_works(kind: str, tmp_path: Path, programs: Sequence[Sequence[str]]) -> None:
    """Run programs on images of which one is broken; everything is written, and nothing beside it."""
    (tmp_path / "home/.cache/cl").mkdir(parents=True)
    write_classes(tmp_path / "train", {"a": 12, "b": 12})
    write_classes(tmp_path / "val", {"a": 4, "b": 4})
    (tmp_path / "train/a/broken.png").write_bytes(b"broken")
    environment = {"HOME": str(tmp_path / "home")}
    probe = odd_machine(kind, tmp_path, ["-c", "pass"], environment)
    if probe.returncode:
        pytest.skip(f"not permitted here: {probe.stderr.strip()}")
    for command in programs:
        done = odd_machine(kind, tmp_path, command, environment)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert "broken.png" in (tmp_path / RUN / "bad_images.csv").read_text()
    assert json.loads((tmp_path / RUN / "config.json").read_text())
    assert (tmp_path / RUN / "views.png").stat().st_size > 1000
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"home", "train", "val", "trained_models", "features.npz"}  # no folder called ~ or relative
    assert list((tmp_path / "home/.cache/cl").iterdir()) == []
