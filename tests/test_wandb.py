"""wandb is optional, and its failures never end a run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from tests.conftest import ROOT, TINY, Run

PRETRAIN = "main_contrastive.py"
QUICK = ["digits", "resnet18", *TINY, "--max_steps", "3", "--run_id", "r", "--project", "x"]
BLOCK_SOCKETS = """
import socket
class Blocked(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX: raise OSError("no network")
        return super().connect(address)
    connect_ex = connect
socket.socket = Blocked
"""


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def without_network(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run in its own network namespace where that is allowed, else with Python's sockets blocked."""
    unshare = [shutil.which("unshare") or "", "-n"]
    if unshare[0] and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
        command = [*unshare, *command]
    (folder / "block").mkdir()
    (folder / "block/sitecustomize.py").write_text(BLOCK_SOCKETS)
    environment = os.environ | {"PYTHONPATH": str(folder / "block")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_without_a_network_a_run_ends_normally_and_leaves_an_offline_run(folder: Path) -> None:
    done = without_network([sys.executable, str(ROOT / PRETRAIN), *QUICK], folder)
    assert (done.returncode, done.stderr) == (0, "")
    (offline,) = (folder / "trained_models/r/wandb").glob("offline-run-*")
    assert offline.name.endswith("-r")  # the id is the run folder's name
    assert next(offline.glob("run-r.wandb")).stat().st_size > 0
    assert f"wandb sync trained_models/r/wandb/{offline.name}" in done.stdout
    assert (folder / "trained_models/r/metrics.csv").exists()


class RunStub:
    """Stands in for a wandb run and records its rows; raises from the second row on if `failing`."""

    def __init__(self, failing: bool) -> None:
        self.failing, self.rows, self.finished = failing, list[tuple[dict[str, float], int]](), False
        self.settings = wandb.Settings(mode="online")

    def log(self, metrics: dict[str, float], step: int) -> None:
        if self.failing and self.rows:
            raise ConnectionError("server gone")
        self.rows.append((metrics, step))

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("failing", [False, True])
def test_rows_go_to_wandb_until_it_fails(failing: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, init_arguments = RunStub(failing), {}
    monkeypatch.setattr(wandb, "init", lambda **arguments: init_arguments.update(arguments) or stub)
    code, _, err = run(PRETRAIN, *QUICK[:-6], "--epochs", "2", *QUICK[-4:])
    assert code == 0
    assert (init_arguments["project"], init_arguments["id"], init_arguments["resume"], init_arguments["mode"]) == (
        "x",
        "r",
        "allow",
        "offline",
    )
    assert init_arguments["config"]["temperature"] == 0.2
    assert [step for _, step in stub.rows] == ([22] if failing else [22, 44])
    assert stub.finished != failing
    assert err.count("\n") == failing
    assert ("warning: wandb is disabled for the rest of the run (ConnectionError: server gone)" in err) == failing


def test_a_logged_in_run_without_a_network_goes_offline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, modes = RunStub(failing=False), []

    def init(mode: str, **_: object) -> RunStub:
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("timed out")
        return stub

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    code, _, err = run(PRETRAIN, *QUICK)
    assert (code, err, modes) == (0, "", ["online", "offline"])
    assert len(stub.rows) == 1


def test_a_run_trains_without_wandb_installed(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, out, err = run(PRETRAIN, *QUICK)
    assert code == 0
    assert "warning: wandb is disabled for the rest of the run (ModuleNotFoundError" in err
    assert err.endswith("; pip install 'contrastive-pretraining[wandb]')\n")
    assert err.count("\n") == 1
    assert "run folder" in out
