"""What the tests share: running the programs in this process, in an empty folder."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per worker; torch reads it when it is imported

from cl.machine.cores import usable_cores  # noqa: E402


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: one process per usable core."""
    return usable_cores()


TINY = ["--width", "4", "--proj_hidden_dim", "16", "--batch_size", "64"]  # a ResNet-18 that trains in a second


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of the tests do not go into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leave_out_pictures(replace: Callable[[str, object], None]) -> None:
    """Empty files in their place: they take ten times as long as a tiny training, and have tests of their own."""
    for name in (
        "views_picture.save_views",
        "neighbours_picture.save_neighbours",
        "curves_picture.save_curves",
        "embedding_picture.save_embedding",
        "embedding_picture.save_points",
    ):
        replace(f"cl.evaluation.pictures.{name}", lambda *args: args[-1].touch())


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pictures() -> None:
    """For a test that looks at the pictures of a `run`."""


@pytest.fixture
def run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Run:
    """Call a program with flags as the command line does: exit code, stdout, stderr."""
    import main_contrastive
    import main_linear
    from cl import cli

    programs = {"main_contrastive.py": main_contrastive.main, "main_linear.py": main_linear.main}

    if "pictures" not in request.fixturenames:
        leave_out_pictures(monkeypatch.setattr)

    def call(program: str, *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / program), *flags])
        code = 0
        try:
            cli.run(programs[program])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the first image of some batches (numbered from the last call on) infinite."""
    from cl.data.loader import TrainLoader

    load = TrainLoader.__iter__

    def spoiled(*numbers: int) -> None:
        seen = iter(range(1, 1000))

        def batches(self: TrainLoader) -> Iterator[Any]:
            for batch in load(self):
                if next(seen) in numbers:
                    batch.views[0][:, 0] = float("inf")
                yield batch

        monkeypatch.setattr(TrainLoader, "__iter__", batches)

    return spoiled


@pytest.fixture
def toy() -> Iterator[None]:
    """The method of tests/toy_queue.py can be named."""
    from tests import toy_queue

    with toy_queue.registered():
        yield
