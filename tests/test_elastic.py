"""A run goes on with other processes: the same images per loss, shared out otherwise, end in the same weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.sampler import RankSlice
from cl.data.settings import CPU, pretrain_settings
from cl.data.sources.registry import load
from cl.run.folder.tables import Table
from tests.conftest import Run
from tests.kills import PATIENCE, Forked, write_images
from tests.teachers import method_flags
from tests.test_double_precision import COMMON, FLAGS
from tests.test_resume import AUTO, break_off

GLOBAL_BATCH = 24  # of 96 images: four steps per epoch
STEPS = ["--epochs", "2", "--checkpoint_every_n_steps", "1", "--knn_every", "1"]
RESNET = [*FLAGS, *STEPS]
VIT = ["custom", "timm/test_vit", "--patch_size", "4", "--drop_path", "0.3", *COMMON, *STEPS]
MORE = {
    "swav": ["--queue_size", "48", "--queue_start_epoch", "0"],
    "simclr": ["--accumulate", "2", "--exact_negatives"],
}
DEFAULT_RUN = ("moco_v2",)  # a teacher and a queue; the others are slow tests
AGAIN_AND_AGAIN = ("moco_v2", "simclr", "dino")
PRETRAIN = "main_contrastive.py"
SHORT = ["digits", "resnet18", "--width", "4", "--proj_hidden_dim", "16", "--max_steps", "8", "--run_id", "run"]
SHORT += ["--checkpoint_every_n_steps", "1", "--knn_every", "9", *AUTO]


@dataclass(frozen=True)
class Share:
    """One life of a run."""

    method: str
    own: list[str]
    processes: int = 1

    @property
    def flags(self) -> list[str]:
        batches = 2 if "--accumulate" in MORE.get(self.method, []) else 1
        share = ["--devices", str(self.processes), "--batch_size", str(GLOBAL_BATCH // batches // self.processes)]
        return [*self.own, *method_flags(self.method), *MORE.get(self.method, []), *share]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    write_images(folder)
    return folder


def lives(folder: Path, share: Share, processes: Sequence[int]) -> Path:
    """A run that is killed in the third save of each life but the last."""
    run_id = "-".join([share.method, share.own[1].replace("/", "-"), *map(str, processes)])
    for number, count in enumerate(processes):
        last = number + 1 == len(processes)
        life = Forked(folder, replace(share, processes=count), run_id, die_while_saving=0 if last else 3)  # type: ignore[arg-type]
        codes = life.wait(PATIENCE)
        life.kill()
        assert codes is not None, f"{run_id} does not end"
        assert (codes == [0] * count) == last, life.log.read_text()[-2000:]
    return folder / f"trained_models/{run_id}"


@pytest.mark.parametrize(
    "method", [name if name in DEFAULT_RUN else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_run_that_is_killed_goes_on_with_other_processes_to_the_same_end(images: Path, method: str) -> None:
    assert_killed_is_alone(images, method, RESNET, [1, 2, 4, 1] if method in AGAIN_AND_AGAIN else [2, 1])


@pytest.mark.slow
def test_so_does_a_transformer_whose_branches_are_dropped(images: Path) -> None:
    assert_killed_is_alone(images, "simsiam", VIT, [1, 2, 4, 1])


def assert_killed_is_alone(images: Path, method: str, flags: list[str], processes: Sequence[int]) -> None:
    alone = lives(images, Share(method, flags), [1])
    killed = lives(images, Share(method, flags), processes)
    expected, found = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (alone, killed))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    rows = [
        [{k: float(x) for k, x in row.items() if x} for row in Table(f / "metrics.csv").rows] for f in (alone, killed)
    ]
    assert len(rows[0]) == 2
    for one, other in zip(*rows, strict=True):
        assert other == pytest.approx(one, rel=1e-7)


def stream(lives: Sequence[tuple[int, int]]) -> list[tuple[int, int, bytes]]:
    """(epoch, index, hash of the views) of each image in turn; a life has a number of processes and of steps."""
    seen = []
    for life, (processes, steps) in enumerate(lives):
        flags = ["digits", "resnet18", "--batch_size", str(200 // processes)]
        config = parse(Pretrain, flags).config
        before = sum(done for _, done in lives[:life])
        ranks = [
            ImageData(load(config.data), pretrain_settings(config, RankSlice(r, processes), CPU))
            for r in range(processes)
        ]
        loaders = [rank.train_dataloader() for rank in ranks]
        for step in range(before, before + steps):
            epoch, consumed = divmod(step, ranks[0].steps_per_epoch)
            for loader in loaders:
                loader.load_state_dict({"epoch": epoch, "consumed": consumed})
                batch = next(iter(loader))
                hashes = [hashlib.sha256(views.numpy().tobytes()).digest() for views in batch.views[0].unbind(1)]
                seen += list(zip([epoch] * len(hashes), batch.index.tolist(), hashes, strict=True))
    return seen


def test_images_and_views_come_in_one_order_whoever_reads_them() -> None:
    undisturbed = stream([(1, 14)])
    assert len({(epoch, index) for epoch, index, _ in undisturbed}) == 14 * 200
    assert stream([(1, 5), (2, 3), (4, 4), (1, 2)]) == undisturbed


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
    ("flags", "others", "said"),
    [
        (["--no_sync_batchnorm"], ["--batch_size", "128"], "under --no_sync_batchnorm each process has statistics"),
        (
            ["--exact_negatives", "--accumulate", "2"],
            ["--batch_size", "64", "--accumulate", "4"],
            "--accumulate: got 4, expected 2 as in",
        ),
    ],
)
def test_what_depends_on_the_number_of_processes_keeps_it(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], others: list[str], said: str
) -> None:
    own = [*SHORT, *flags]
    break_off(run, monkeypatch, 3, PRETRAIN, *own, "--batch_size", "64")
    saved = torch.load("trained_models/run/last.ckpt", weights_only=True)
    saved["cl"]["processes"] = 2
    torch.save(saved, "trained_models/run/last.ckpt")
    Path("trained_models/run/previous.ckpt").unlink(missing_ok=True)
    code, _, err = run(PRETRAIN, *own, *others)
    assert code == 2
    assert said in err
