"""A disk that is full or becomes read-only, and a full TMPDIR: nothing that was saved is lost."""

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
AFTER_THE_FIRST_CHECKPOINT = """
(while [ ! -e {disk}/run/last.ckpt ]; do sleep 0.05; done; {change}) &
"""

pytestmark = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs permission to create a mount namespace",
)


def with_disk(folder: Path, script: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in its own mount namespace with a small disk at `disk`; what it copies to `copy` remains."""
    (folder / "disk").mkdir(exist_ok=True)
    (folder / "copy").mkdir(exist_ok=True)
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    command = ["unshare", "-rm", "bash", "-c", f"mount -t tmpfs -o size=20m tmpfs disk\n{script}"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a disk that works."""
    folder = tmp_path_factory.mktemp("undisturbed")
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
def test_a_disk_failure_costs_at_most_the_steps_since_the_last_checkpoint(
    change: str, undo: str, undisturbed: Path, tmp_path: Path
) -> None:
    fail = AFTER_THE_FIRST_CHECKPOINT.format(disk="disk", change=change)
    script = f"{fail}{COMMAND} --output_dir disk > stdout; echo $? > code; wait; {undo}\n"
    done = with_disk(tmp_path, f"{script}{COMMAND} --output_dir disk >> stdout && cp -r disk/run copy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "code").read_text() == "4\n"
    lines = [line for line in done.stderr.splitlines() if line.startswith("stopped: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert "resumes             from " in (tmp_path / "stdout").read_text()
    assert differences(tmp_path / "copy/run", undisturbed) == []


def test_a_read_only_output_dir_is_refused_at_the_start(tmp_path: Path) -> None:
    done = with_disk(tmp_path, f"mount -o remount,ro disk; {COMMAND} --output_dir disk/deeper")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--output_dir: got disk/deeper, expected a writable folder (Read-only file system)" in done.stderr


def test_a_tmpdir_on_a_full_disk_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    script = f"(fallocate -l 20M disk/filler || cat /dev/zero > disk/filler) 2>/dev/null; {COMMAND} --output_dir copy"
    done = with_disk(tmp_path, script, {"TMPDIR": str(tmp_path / "disk")})
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(tmp_path / "copy/run", undisturbed) == []
