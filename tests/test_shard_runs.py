"""A run on shards or a table is the run on the folder, to the byte: any processes, workers, loaders, killed or not."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kills import FLAGS, PATIENCE, Forked, write_images
from tests.shards import as_shards, as_table

OF_FOLDER = ("--train_dir", "train", "--val_dir", "val")
SHORT = ("--epochs", "2", "--knn_every", "1")


@dataclass(frozen=True)
class Life:
    """How a run reads its images."""

    images: tuple[str, ...]
    processes: int
    how: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        share = ["--devices", str(self.processes), "--batch_size", str(24 // self.processes)]
        return [*FLAGS, *SHORT, *share, *self.how, *self.images]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train`, `val`, and shards of both."""
    folder = tmp_path_factory.mktemp("shards")
    write_images(folder)
    for part in ("train", "val"):
        as_shards(folder / part, folder / f"{part}_shards")
        as_table(folder / part, folder / f"{part}.parquet")
    return folder


def metrics(folder: Path, life: Life, run_id: str, kills: int = 0) -> bytes:
    """metrics.csv of a run that is killed so often in the second save of a life."""
    for number in range(kills + 1):
        last = number == kills
        run = Forked(folder, life, run_id, die_while_saving=0 if last else 2)  # type: ignore[arg-type]
        codes = run.wait(PATIENCE)
        run.kill()
        assert codes is not None, f"{run_id} does not end"
        assert (codes == [0] * life.processes) == last, run.log.read_text()[-2000:]
    return (folder / f"trained_models/{run_id}/metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("processes", "how"),
    [
        (1, ("--num_workers", "0")),
        pytest.param(1, ("--num_workers", "2"), marks=pytest.mark.slow),
        pytest.param(2, ("--num_workers", "0"), marks=pytest.mark.slow),
        pytest.param(2, ("--num_workers", "2"), marks=pytest.mark.slow),
        pytest.param(1, ("--num_workers", "1", "--loader", "torchvision"), marks=pytest.mark.slow),
        pytest.param(1, ("--num_workers", "1", "--cache", "raw256"), marks=pytest.mark.slow),
        pytest.param(1, ("--num_workers", "1", "--loader", "dali"), marks=pytest.mark.slow),
    ],
)
def test_a_run_on_shards_or_a_table_is_the_run_on_the_folder_killed_or_not(
    images: Path, processes: int, how: tuple[str, ...]
) -> None:
    name = f"{processes}-{'-'.join(how).replace('-', '')}"
    of_shards = ("--train_dir", f"tar/{images}/train_shards/*.tar", "--val_dir", "tar/val_shards/*.tar")
    folder = metrics(images, Life(OF_FOLDER, processes, how), f"{name}-folder")
    assert len(folder.splitlines()) == 3
    assert metrics(images, Life(of_shards, processes, how), f"{name}-killed", kills=1) == folder
    of_table = ("--train_dir", "hf/train.parquet", "--val_dir", "hf/val.parquet")
    assert metrics(images, Life(of_table, processes, how), f"{name}-table", kills=1) == folder
