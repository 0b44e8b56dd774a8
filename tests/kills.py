"""Runs that are killed again and again, and go on with `auto`: do they end with the bits of one that was left alone?

    python -m tests.kills                   the whole matrix, a Markdown table (docs/results.md)
    python -m tests.kills --methods byol dino --loaders fast
    python -m tests.kills simclr 2 2 fast --kills 3

A run is forked from this process, which has imported everything and computed nothing: it starts in a second.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import main_contrastive
from cl import cli
from cl.config.methods import METHODS
from cl.run.folder import checkpoint
from tests.conftest import leave_out_pictures
from tests.pictures import plain
from tests.teachers import method_flags

LOADERS = ("fast", "torchvision", "dali")
FLAGS = ["custom", "resnet18", "--train_dir", "train", "--val_dir", "val", "--crop_size", "16", "--accelerator", "cpu"]
FLAGS += ["--width", "4", "--proj_hidden_dim", "16", "--proj_output_dim", "8", "--batch_size", "8", "--knn_every", "2"]
FLAGS += ["--epochs", "5", "--checkpoint_every_n_steps", "4"]
PATIENCE = 120  # seconds for a run


@dataclass(frozen=True)
class Cell:
    """A line of the matrix."""

    method: str
    processes: int
    workers: int
    loader: str
    others: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        return [
            *FLAGS, *method_flags(self.method), "--devices", str(self.processes), "--num_workers", str(self.workers),
            "--loader", self.loader, *self.others,
        ]  # fmt: skip


def write_images(folder: Path) -> None:
    """96 and 24 photographs of no one size, so that they are read from files."""
    for part, count in (("train", 48), ("val", 12)):
        for label, name in enumerate(("a", "b")):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                plain(1000 * label + i, 40 + i % 3, 48).save(folder / part / name / f"{i:03d}.jpg")


def state_of(folder: Path) -> dict[str, Any]:
    """All leaves of a run's newest checkpoint but the flags: weights, optimizer, schedule, loops, sums."""
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    return _leaves({name: part for name, part in saved.items() if name != "cl"})


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: leaf for key, each in items for name, leaf in _leaves(each, f"{path}/{key}").items()}
    return {path: tree}


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def differences(found: Path, expected: Path) -> list[str]:
    """What is not the same, to the bit, in two run folders."""
    ours, theirs = state_of(found), state_of(expected)
    different = sorted(ours.keys() ^ theirs.keys())
    for name in ours.keys() & theirs.keys():
        different += [] if same(ours[name], theirs[name]) else [name]
    rows = [(folder / "metrics.csv").read_bytes() for folder in (found, expected)]
    return different + ["metrics.csv"] * (rows[0] != rows[1])


class Forked:
    """The processes of one run, each with its loader workers in a group of its own."""

    def __init__(self, folder: Path, cell: Cell, run_id: str, die_while_saving: int = 0) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = [*cell.flags, "--run_id", run_id, "--resume_training_from", "auto"]
        self.log = folder / f"{run_id}.txt"
        self.pids = []
        for rank in range(cell.processes):
            pid = os.fork()
            if pid == 0:
                os.setpgid(0, 0)
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(cell.processes)}
                own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                _be_the_run(folder, flags, own if cell.processes > 1 else {}, self.log, die_while_saving)
            self.pids.append(pid)

    def wait(self, seconds: float) -> list[int] | None:
        """The exit codes (negative: the signal) when all have ended; None if one still runs after `seconds`."""
        deadline, codes = time.monotonic() + seconds, dict.fromkeys(self.pids, 0)
        left = set(self.pids)
        while left:
            for pid in sorted(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    left.remove(pid)
                    codes[pid] = os.waitstatus_to_exitcode(status)
            if any(codes.values()):
                break
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return list(codes.values())

    def kill(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid in self.pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _be_the_run(folder: Path, flags: list[str], environment: dict[str, str], log: Path, die_while_saving: int) -> None:
    """In the child: what the command would do; it never returns."""
    os.chdir(folder)
    os.environ |= environment
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.set_num_threads(1)
    leave_out_pictures(pytest.MonkeyPatch().setattr)
    if die_while_saving:
        _die_in_the_middle_of_a_save(die_while_saving)
    sys.argv = ["main_contrastive.py", *flags]
    code = 1
    try:
        cli.run(main_contrastive.main)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # the test wants the code, the log has the rest
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_in_the_middle_of_a_save(number: int) -> None:
    """Half of the `number`th checkpoint reaches its file, then the process is killed."""
    save, saves = torch.save, iter(range(1, 1000))

    def half(content: Any, file: Any) -> None:
        if next(saves) < number:
            return save(content, file)
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.torch.save = half


def killed_run(folder: Path, cell: Cell, kills: int, seed: int) -> tuple[int, list[str]]:
    """How often a run was killed before its end, and how it differs from one that was left alone."""
    chance, name = random.Random(seed), "-".join(map(str, (cell.method, cell.processes, cell.workers, cell.loader)))
    began = time.monotonic()
    alone = Forked(folder, cell, f"{name}-alone")
    codes = alone.wait(PATIENCE)
    took = time.monotonic() - began
    assert codes == [0] * cell.processes, f"{codes}: {alone.log.read_text()[-2000:]}"
    done = 0
    while done < kills:
        saving = done == kills // 2
        # The first third of a run is its start: kills come there too, but most of them find it training.
        delay = took * (chance.uniform(0.1, 0.4) + chance.uniform(0, 1 / kills))
        run = Forked(folder, cell, name, die_while_saving=1 + chance.randrange(2) if saving else 0)
        codes = run.wait(PATIENCE if saving else delay)
        if codes is not None and not any(code < 0 for code in codes):
            shutil.rmtree(folder / f"trained_models/{name}")  # it was faster than that: once more from the start
            continue
        run.kill()
        done += 1
    last = Forked(folder, cell, name)
    codes = last.wait(PATIENCE)
    assert codes == [0] * cell.processes, f"{codes}: {last.log.read_text()[-2000:]}"
    return done, differences(folder / f"trained_models/{name}", folder / f"trained_models/{name}-alone")


def matrix(methods: Iterable[str], loaders: Iterable[str]) -> Iterator[Cell]:
    """One and two processes, and no and two workers, with each method and loader."""
    yield from (Cell(*each) for each in product(methods, (1, 2), (0, 2), loaders))


def elastic(folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """A run with a teacher and a queue whose number of processes changes with each kill; what differs beyond 1e-8."""
    flags = ["--precision", "64", "--batch_size"]
    cells = {size: Cell("moco_v2", size, 0, "fast", (*flags, str(8 // size))) for size in (1, 2, 4)}
    alone = Forked(folder, cells[1], "elastic-alone")
    assert alone.wait(PATIENCE) == [0], alone.log.read_text()[-2000:]
    chance = random.Random(seed)
    for _ in range(kills):
        life = Forked(folder, cells[chance.choice((1, 2, 4))], "elastic", die_while_saving=2)
        codes = life.wait(PATIENCE)
        life.kill()
        if codes is not None and not any(codes):
            break  # at its end
    last = Forked(folder, cells[1], "elastic")
    assert last.wait(PATIENCE) == [0], last.log.read_text()[-2000:]
    found, expected = (
        torch.load(folder / f"trained_models/{name}/last.ckpt", weights_only=True)["state_dict"]
        for name in ("elastic", "elastic-alone")
    )
    close = {name: torch.allclose(found[name], value, rtol=1e-8, atol=1e-10) for name, value in expected.items()}
    return kills, [name for name, is_close in close.items() if not is_close]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cell", nargs="*", help="method, processes, workers, loader, or elastic; by default all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=[*LOADERS])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    cells = list(matrix(asked.methods, asked.loaders))
    if asked.cell == ["elastic"]:
        cells = []
    elif asked.cell:
        method, processes, workers, loader = asked.cell
        cells = [Cell(method, int(processes), int(workers), loader)]
    failed = False
    print("| method | processes | workers | loader | kills | different |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        write_images(folder)
        for number, cell in enumerate(cells):
            kills, different = killed_run(folder, cell, asked.kills, asked.seed + number)
            said = ", ".join(different[:3]) or "nothing"
            print(
                f"| {cell.method} | {cell.processes} | {cell.workers} | {cell.loader} | {kills} | {said} |", flush=True
            )
            failed = failed or bool(different)
        if not asked.cell or asked.cell == ["elastic"]:
            kills, different = elastic(folder, asked.kills, asked.seed)
            print(
                f"| moco_v2 | 1, 2 or 4 at a time | 0 | fast | {kills} | {', '.join(different[:3]) or 'nothing'} |",
                flush=True,
            )
            failed = failed or bool(different)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
