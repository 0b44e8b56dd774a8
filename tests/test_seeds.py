"""--seeds: the same command once per seed, in sequence, and one table."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cl.cli import parse
from cl.config.programs import Pretrain
from cl.run.start import seeds
from cl.run.start.seeds import with_seed
from tests.conftest import ROOT, TINY, Run

SHORT = ["--max_steps", "2", "--limit_eval", "50"]
TWO_SEEDS = ["digits", "resnet18", *TINY, *SHORT, "--seeds", "3", "4"]
MAIN = str(ROOT / "main_contrastive.py")


def test_each_seed_has_its_own_run_and_the_table_combines_them(tmp_path: Path) -> None:
    command = [sys.executable, MAIN, *TWO_SEEDS, "--name", "two"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    folders = sorted(path for path in (tmp_path / "trained_models").iterdir() if not path.is_symlink())
    assert [(path.name[:10], path.name[-6:]) for path in folders] == [
        ("two-digits", "-seed3"),
        ("two-digits", "-seed4"),
    ]
    configs = [json.loads((path / "config.json").read_text())["config"]["run"] for path in folders]
    assert [(config["seed"]["value"], config["seeds"]["value"]) for config in configs] == [(3, []), (4, [])]
    knn = [100 * json.loads((path / "summary.json").read_text())["knn/val_top1"] for path in folders]
    mean, deviation = sum(knn) / 2, abs(knn[0] - knn[1]) / 2**0.5
    last = done.stdout.splitlines()[-1]
    assert f"| {mean:.1f} +- {deviation:.1f} % (2) |" in last
    assert f"| {folders[0].name} + 1 |" in last


@pytest.fixture
def started_commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would be started; each ends with exit code 3."""
    commands: list[list[str]] = []

    def fake(command: list[str]) -> int:
        commands.append(command)
        return 3

    monkeypatch.setattr(seeds, "_run", fake)
    return commands


def test_a_seed_that_fails_is_named_and_ends_the_command_with_its_exit_code(
    run: Run, folder: Path, started_commands: list[list[str]]
) -> None:
    code, out, err = run("main_contrastive.py", *TWO_SEEDS)
    assert (code, err) == (3, "seed 3 ended with exit code 3; not started: 4\n")
    assert "seed 4" not in out
    (command,) = started_commands
    assert command[1:-4] == [MAIN, "digits", "resnet18", *TINY, *SHORT]
    assert command[-4:-1] == ["--seed", "3", "--run_id"]
    assert not (folder / "trained_models").exists()


def test_a_dry_run_runs_the_first_seed_only(run: Run, folder: Path, started_commands: list[list[str]]) -> None:
    _, out, err = run("main_contrastive.py", *TWO_SEEDS, "--dry_run")
    assert out == "seed 3, run 1 of 1\n\n"
    assert err == "seed 3 ended with exit code 3\n"


def test_sigterm_reaches_the_running_seed(tmp_path: Path) -> None:
    program = tmp_path / "sleeper.py"
    program.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from cl.cli import parse\n"
        "from cl.config.programs import Pretrain\n"
        "from cl.run.start.seeds import run_each_seed\n"
        "if '--seeds' in sys.argv:\n"
        "    sys.exit(run_each_seed(parse(Pretrain, sys.argv[1:]), 'simclr', str))\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(program), *TWO_SEEDS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = [parent.stdout.readline() for _ in range(3)]
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 128 + signal.SIGTERM
    parent.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[2]), 0)


@pytest.mark.parametrize(
    "words",
    [
        "digits resnet18 --seeds 0 1 --lr 0.1",
        "--seeds=0 digits resnet18 --lr 0.1",
        "digits --seeds=0 resnet18 --lr 0.1",
        "--lr 0.1 --seeds 0 1 -- digits resnet18",
        "--gpus 0 --seeds=0 digits resnet18 --lr 0.1",
        "digits resnet18 --seeds 0 1 --lr 0.1 --seeds=5",
        "--seeds 0 --lr 0.1 --gpus 0 --seeds=1 digits resnet18",
        "--seeds 0 1 --lr=0.1 digits resnet18",
    ],
)
def test_the_command_of_a_seed_differs_in_nothing_else_whatever_the_order_of_the_words(words: str) -> None:
    given = parse(Pretrain, words.split())
    one = parse(Pretrain, with_seed(given.argv, 7, "x-seed7"))
    assert (one.config.run.seed, one.config.run.run_id, one.config.run.seeds) == (7, "x-seed7", ())
    run = replace(one.config.run, seed=given.config.run.seed, run_id=None, seeds=given.config.run.seeds)
    assert replace(one.config, run=run) == given.config


def test_a_name_that_leaves_no_room_for_data_set_time_and_seed_is_refused_before_anything_is_started(
    run: Run, folder: Path, started_commands: list[list[str]]
) -> None:
    code, out, err = run("main_contrastive.py", *TWO_SEEDS, "10", "--name", "n" * 100)
    assert (code, out, err.count("\n"), started_commands) == (2, "", 1, [])
    longest = int(err.split("expected at most ")[1].split()[0])
    assert err.startswith(f"error: --name: got {'n' * 100} with --seeds 3 4 10, expected at most {longest} characters")
    assert run("main_contrastive.py", *TWO_SEEDS, "10", "--name", "n" * (longest + 1))[0] == 2
    assert started_commands == []
    assert run("main_contrastive.py", *TWO_SEEDS, "10", "--name", "n" * longest)[0] == 3
    (command,) = started_commands
    assert parse(Pretrain, command[2:]).config.run.run_id == command[command.index("--run_id") + 1]
    assert list(folder.iterdir()) == []


def test_a_launcher_with_seeds_is_refused(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    code, out, err = run("main_contrastive.py", *TWO_SEEDS)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--seeds: got 3 4 under a launcher" in err
