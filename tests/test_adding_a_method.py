"""docs/adding_a_method.md, carried out as it stands on a copy of the project without the method that it adds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOC = (ROOT / "docs/adding_a_method.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", DOC, flags=re.S)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", DOC, flags=re.S) for line in block.splitlines()]
COPIED = "bash_files", "bench", "cl", "docs", "tests", "main_contrastive.py", "main_linear.py", "pyproject.toml"


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_the_page_adds_byol(tmp_path: Path) -> None:
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    method, config, imported, entry = PYTHON
    files = {"cl/methods/byol.py": method, "cl/config/methods/byol.py": config}
    registry = tmp_path / "cl/config/methods/__init__.py"
    golden = "tests/golden/byol.json"

    for name in files:
        (tmp_path / name).unlink()
    (tmp_path / golden).unlink()
    complete = registry.read_text()
    registry.write_text(complete.replace(imported, "").replace(entry, ""))
    assert "byol" not in registry.read_text().lower()
    code, output = shell(tmp_path, "python main_contrastive.py digits resnet18 --method byol")
    assert code == 2
    assert "--method: got byol" in output

    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert text == (ROOT / name).read_text(), "the page shows the method as it is"
    registry.write_text(complete)

    outputs = []
    for command in COMMANDS:
        short = " --epochs 1 --width 4" if "main_" in command and "--help" not in command else ""
        code, output = shell(tmp_path, command + short)
        assert code == 0, output
        outputs.append(output)
    train, usage, selfcheck, _, tests = outputs
    assert "byol on digits" in train
    assert "--teacher_momentum FLOAT" in usage
    assert re.search(r"^byol .* equal$", selfcheck, flags=re.M)
    assert "DIFFERENT" not in selfcheck
    assert "passed" in tests
    losses, expected = (json.loads((root / golden).read_text())["losses"] for root in (tmp_path, ROOT))
    assert losses == pytest.approx(expected, rel=1e-6)
    code, output = shell(tmp_path, "ruff check . && mypy cl/methods/byol.py cl/config/methods")
    assert code == 0, output


def shell(folder: Path, command: str) -> tuple[int, str]:
    """The exit code, and everything that the command printed."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    return done.returncode, done.stdout + done.stderr
