"""A run goes on with other processes: the same images per loss, shared out otherwise, end in the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cl.config.methods import METHODS
from cl.run.folder.tables import Table
from tests.conftest import Run
from tests.kills import PATIENCE, Forked, write_images
from tests.teachers import method_flags
from tests.test_double_precision import FLAGS as DOUBLE
from tests.test_resume import AUTO, break_off

GLOBAL_BATCH = 24  # of 96 images: four steps per epoch
FLAGS = [*DOUBLE, "--epochs", "2", "--checkpoint_every_n_steps", "1", "--knn_every", "1"]
MORE = {
    "swav": ["--queue_size", "48", "--queue_start_epoch", "0"],
    "simclr": ["--accumulate", "2", "--exact_negatives"],
}
DEFAULT_RUN = ("byol", "moco_v2")  # a teacher; a teacher and a queue
PRETRAIN = "main_contrastive.py"
SHORT = ["digits", "resnet18", "--width", "4", "--proj_hidden_dim", "16", "--max_steps", "8", "--run_id", "run"]
SHORT += ["--checkpoint_every_n_steps", "1", "--knn_every", "9", *AUTO]


@dataclass(frozen=True)
class Share:
    """One life of a run."""

    method: str
    processes: int

    @property
    def flags(self) -> list[str]:
        batches = 2 if "--accumulate" in MORE.get(self.method, []) else 1
        share = ["--devices", str(self.processes), "--batch_size", str(GLOBAL_BATCH // batches // self.processes)]
        return [*FLAGS, *method_flags(self.method), *MORE.get(self.method, []), *share]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    write_images(folder)
    return folder


def lives(folder: Path, method: str, run_id: str, processes: Sequence[int]) -> Path:
    """A run that is killed in the third save of each life but the last."""
    for number, count in enumerate(processes):
        last = number + 1 == len(processes)
        life = Forked(folder, Share(method, count), run_id, die_while_saving=0 if last else 3)  # type: ignore[arg-type]
        codes = life.wait(PATIENCE)
        life.kill()
        assert codes is not None, f"{run_id} does not end"
        assert (codes == [0] * count) == last, life.log.read_text()[-2000:]
    return folder / f"trained_models/{run_id}"


@pytest.mark.parametrize(
    "method", [name if name in DEFAULT_RUN else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_run_killed_again_and_again_goes_on_with_one_two_and_four_processes(images: Path, method: str) -> None:
    alone = lives(images, method, f"{method}-alone", [1])
    killed = lives(images, method, f"{method}-killed", [1, 2, 4, 1])
    expected, found = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (alone, killed))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    rows = [
        [{k: float(x) for k, x in row.items() if x} for row in Table(f / "metrics.csv").rows] for f in (alone, killed)
    ]
    assert len(rows[0]) == 2
    for one, other in zip(*rows, strict=True):
        assert other == pytest.approx(one, rel=1e-7)


def test_the_banner_says_what_changed_and_another_batch_is_refused(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(run, monkeypatch, 3, PRETRAIN, *SHORT, "--batch_size", "64")
    saved = torch.load("trained_models/run/last.ckpt", weights_only=True)
    saved["cl"]["processes"] = 2  # as if two processes had written it
    torch.save(saved, "trained_models/run/last.ckpt")
    Path("trained_models/run/previous.ckpt").unlink(missing_ok=True)
    code, _, err = run(PRETRAIN, *SHORT)
    assert code == 2
    assert "--batch_size: got 64 on 1 process of 64 images, expected --batch_size 128: one loss sees 128 images" in err
    code, _, err = run(PRETRAIN, *SHORT, "--batch_size", "128", "--accumulate", "2")
    assert code == 2
    assert "--accumulate: got 2, expected 1" in err
    code, out, err = run(PRETRAIN, *SHORT, "--batch_size", "128")
    assert (code, err) == (0, "")
    assert "steps; 2 processes of 64 images before" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--no_sync_batchnorm"], "under --no_sync_batchnorm each process has statistics of its own"),
        (["timm/test_vit", "--patch_size", "2", "--drop_path", "0.1"], "dropout draws other numbers in each process"),
    ],
)
def test_what_depends_on_the_number_of_processes_keeps_it(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], said: str
) -> None:
    own = [*SHORT, *flags]
    if flags[0].startswith("timm"):
        own = ["digits", *flags, *SHORT[4:]]
    break_off(run, monkeypatch, 3, PRETRAIN, *own, "--batch_size", "64")
    saved = torch.load("trained_models/run/last.ckpt", weights_only=True)
    saved["cl"]["processes"] = 2
    torch.save(saved, "trained_models/run/last.ckpt")
    Path("trained_models/run/previous.ckpt").unlink(missing_ok=True)
    code, _, err = run(PRETRAIN, *own, "--batch_size", "128")
    assert code == 2
    assert "--devices: got 1 processes, expected 2" in err
    assert said in err
