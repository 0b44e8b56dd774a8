"""bench/gpu.py: one command for a rented GPU, rehearsed without one."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.pictures import write_classes

WORKED = '{"images/s": 12345.6, "curve": "3 2 1"}'


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import parts

    return parts


def runs(process: int) -> bool:
    """Whether it does, and is no zombie that nobody waits for."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_that_hangs_or_fails_costs_its_own_limit_and_a_line(parts: Any, tmp_path: Path) -> None:
    child = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    fakes = [
        parts.Part("hangs", python(child), 1.0, parts.last_line),
        parts.Part("fails", python("raise SystemExit('no | luck')"), 9.0, parts.last_line),
        parts.Part("says nothing", python("pass"), 9.0, parts.last_line),
        parts.Part("not there", python("pass"), 9.0, parts.last_line, ("nowhere.at_all",)),
        parts.Part("works", python(f"print({WORKED!r})"), 9.0, parts.last_line),
    ]
    began = time.monotonic()
    results = parts.run_parts(fakes, 60.0, tmp_path / "out", tmp_path, "a title")
    assert time.monotonic() - began < 8
    statuses = [result.status for result in results]
    assert statuses[:2] == ["ended after 1 s", "exit code 1: no | luck"]
    assert statuses[2].startswith("no figures: IndexError")
    assert statuses[3:] == ["skipped: nowhere.at_all not installed", "done"]
    table = (tmp_path / "out/report.md").read_text().splitlines()
    assert table[-1] == "| works | done | 0 | images/s 12,346; curve 3 2 1 |"
    assert all(line.count("|") == 5 for line in table[2:])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["parts"][-1]["figures"] == json.loads(WORKED)
    sleeping = int((tmp_path / "out/logs" / report["parts"][0]["log"]).read_text())
    assert not runs(sleeping)  # its child has ended as well


def test_no_part_starts_after_the_time_is_up_and_what_is_done_is_written(parts: Any, tmp_path: Path) -> None:
    written = f"import os; assert os.path.exists({str(tmp_path / 'report.json')!r}); print('{{}}')"
    fakes = [parts.Part("first", python("print('{}')"), 9.0, parts.last_line)]
    fakes.append(parts.Part("second", python(written), 9.0, parts.last_line))
    statuses = [each.status for each in parts.run_parts(fakes, 60.0, tmp_path, tmp_path, "")]
    assert statuses == ["done", "done"]
    statuses = [each.status for each in parts.run_parts(fakes, 1.0, tmp_path, tmp_path, "")]
    assert statuses == ["skipped: no time was left"] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)  # three minutes on an idle machine
def test_a_cpu_rehearses_all_parts(tmp_path: Path) -> None:
    for name in ("cifar10/train", "cifar10/test", "clothing/train"):
        (tmp_path / name).mkdir(parents=True)
        write_classes(tmp_path / name, {"a": 8, "b": 8})
    command = [sys.executable, str(ROOT / "bench/gpu.py"), "--data_folder", ".", "--minutes", "9", "--out", "report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "report/report.json").read_text())["parts"]
    assert len(parts) >= 15
    assert [part for part in parts if part["status"] != "done" and "not installed" not in part["status"]] == []
    print(done.stdout)


SMALL = [  # a command of each bench that takes seconds
    ("planning.py", []),
    ("shuffle.py", []),
    ("scale.py", ["--files", "1000"]),
    ("shards.py", ["clothing/train", "--members", "20000"]),
    ("compare.py", ["--data_folder", ".", "--quick"]),
]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "flags"), SMALL, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bench_ends_with_a_table(name: str, flags: list[str], tmp_path: Path) -> None:
    for folder, images in (("cifar10/train", 40), ("cifar10/test", 40), ("clothing/train", 100)):
        (tmp_path / folder).mkdir(parents=True)
        write_classes(tmp_path / folder, {str(label): images for label in range(10)})
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / name), *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| ?-{3}", done.stdout, flags=re.M), done.stdout
