"""Disks that are full, become read-only, or are not where Lightning looks: nothing that was saved is lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kills import differences

# Six checkpoints of half a MiB each; the last two are kept.
TRAIN = ["digits", "resnet18", "--width", "4", "--proj_hidden_dim", "16", "--batch_size", "256", "--knn_every", "9"]
TRAIN += ["--epochs", "3", "--checkpoint_every_n_steps", "3", "--resume_training_from", "auto", "--run_id", "run"]
COMMAND = " ".join([sys.executable, str(ROOT / "main_contrastive.py"), *TRAIN])
CHANGED = """
(while [ ! -e {disk}/run/last.ckpt ]; do sleep 0.05; done; {change}) &
"""

pytestmark = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="mounts need a namespace of their own",
)


def with_disk(folder: Path, script: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script that may mount what nobody else sees; what it copies to `kept` stays."""
    (folder / "disk").mkdir(exist_ok=True)
    (folder / "kept").mkdir(exist_ok=True)
    own = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    command = ["unshare", "-rm", "bash", "-c", f"mount -t tmpfs -o size=20m tmpfs disk\n{script}"]
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("alone")
    command = [*COMMAND.split(), "--output_dir", str(folder)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return folder / "run"


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        ("fallocate -l 20M disk/filler 2>/dev/null || cat /dev/zero > disk/filler 2>/dev/null", "rm disk/filler"),
        pytest.param(
            "until mount -o remount,ro disk 2>/dev/null; do sleep 0.05; done",
            "mount -o remount,rw disk",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_fails_within_a_run_costs_no_more_than_the_steps_since_the_last_checkpoint(
    change: str, undo: str, alone: Path, tmp_path: Path
) -> None:
    failing = CHANGED.format(disk="disk", change=change)
    script = f"{failing}{COMMAND} --output_dir disk > said; echo $? > code; wait; {undo}; ls -A disk/run > left\n"
    done = with_disk(tmp_path, f"{script}{COMMAND} --output_dir disk >> said && cp -r disk/run kept")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "code").read_text() == "4\n"
    lines = [line for line in done.stderr.splitlines() if line.startswith("stopped: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert "resumes             from " in (tmp_path / "said").read_text()
    assert differences(tmp_path / "kept/run", alone) == []


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    done = with_disk(tmp_path, f"mount -o remount,ro disk; {COMMAND} --output_dir disk/deeper")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--output_dir: got disk/deeper, expected a writable folder (Read-only file system)" in done.stderr


def test_a_tmpdir_on_another_full_disk_changes_nothing(alone: Path, tmp_path: Path) -> None:
    script = f"(fallocate -l 20M disk/filler || cat /dev/zero > disk/filler) 2>/dev/null; {COMMAND} --output_dir kept"
    done = with_disk(tmp_path, script, {"TMPDIR": str(tmp_path / "disk")})
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(tmp_path / "kept/run", alone) == []
