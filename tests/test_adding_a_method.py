"""docs/adding_a_method.md, carried out as it stands on a copy of the project."""

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
REGISTRY = "METHODS |= {\n"


@pytest.mark.timeout(600)
def test_the_page_gives_a_working_fifth_method(tmp_path: Path) -> None:
    for name in ("cl", "tests", "main_contrastive.py", "main_linear.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    method, config, imported, entry = PYTHON
    (tmp_path / "cl/methods/vicreg.py").write_text(method)
    (tmp_path / "cl/config/methods/vicreg.py").write_text(config)
    registry = tmp_path / "cl/config/methods/__init__.py"
    head, body = registry.read_text().split("\n\n__all__")
    registry.write_text(f"{head}\n{imported}\n__all__{body.replace(REGISTRY, REGISTRY + entry)}")

    assert [command.split()[0] for command in COMMANDS] == ["python", "python", "python", "pytest"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = []
    for command in COMMANDS:
        short = " --epochs 1 --width 4" if "main_" in command and "--help" not in command else ""
        done = subprocess.run(
            command + short, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    assert "vicreg on digits" in said[0]
    assert "--sim_weight FLOAT" in said[1]
    (folder,) = (each for each in (tmp_path / "trained_models").iterdir() if not each.is_symlink())
    assert "invariance" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert (tmp_path / "tests/golden/vicreg.json").exists()
    checks = "ruff check . && mypy cl/methods/vicreg.py cl/config/methods"
    done = subprocess.run(checks, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
