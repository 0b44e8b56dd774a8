"""The pictures of a run: drawn of whatever there is, and what is on them is what was measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cl.evaluation.pictures.curves_picture import read_rows, save_curves
from cl.evaluation.pictures.embedding_picture import MAX_CLASSES, pca, save_embedding, tsne
from tests.conftest import TINY, Run

FIRST_20 = [f"_a$ {i}" for i in range(20)]
ROWS = [{"epoch": epoch, "loss": 6.0 / epoch, "lr": 0.1, "online_linear/val_top1": epoch / 10} for epoch in (1, 2, 3)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def spied(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spied)
    return figures


def blobs(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, 16] around one direction for each class, and targets [N]."""
    generator, targets = torch.Generator().manual_seed(0), torch.arange(images) % classes
    return torch.eye(16)[targets % 16] + 0.1 * torch.randn(images, 16, generator=generator), targets


def test_curves_have_a_panel_for_what_was_measured_and_lines_over_gaps(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [row | ({"knn/val_top1": 0.5} if row["epoch"] != 2 else {}) for row in ROWS]
    save_curves(rows, tmp_path / "curves.png")
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert list(panels) == ["training loss", "accuracy, %", "learning rate"]
    online, knn = panels["accuracy, %"].lines
    assert (online.get_label(), knn.get_label()) == ("online, validation", "kNN, validation")
    assert online.get_ydata() == pytest.approx([10, 20, 30])
    assert list(knn.get_xdata()) == [1, 3]
    assert list(panels["training loss"].lines[0].get_ydata()) == [6, 3, 2]


def test_curves_of_one_epoch_and_of_values_that_are_not_finite(tmp_path: Path) -> None:
    save_curves(ROWS[:1], tmp_path / "one.png")
    save_curves([row | {"loss": float("nan")} for row in ROWS], tmp_path / "nan.png")
    assert all(Image.open(tmp_path / name).width > 500 for name in ("one.png", "nan.png"))


def test_rows_of_a_file_have_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,knn/val_top1\n1,5,5.9,\n2,10,nan,0.5\n")
    first, second = read_rows(tmp_path / "metrics.csv")
    assert first == {"epoch": 1, "step": 5, "loss": 5.9}
    assert second["knn/val_top1"] == 0.5
    assert second["loss"] != second["loss"]


def test_pca_is_the_plane_of_the_largest_variance() -> None:
    plane = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([3, 1])
    features = (plane - plane.mean(dim=0)) @ torch.linalg.qr(torch.randn(2, 7, dtype=torch.float64).T).Q.T + 5
    assert torch.cdist(pca(features), pca(features)) == pytest.approx(torch.cdist(plane, plane), abs=1e-6)
    assert pca(features).std(dim=0)[0] > pca(features).std(dim=0)[1]
    assert pca(torch.ones(1, 4)).tolist() == [[0, 0]]
    assert pca(torch.tensor([[0.0], [2.0]])).abs() == pytest.approx(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_tsne_is_the_same_twice_and_keeps_neighbours() -> None:
    features, targets = blobs(120, 4)
    points = tsne(features)
    assert torch.equal(points, tsne(features))
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(dim=1)
    assert (targets[nearest] == targets).float().mean() > 0.95


@pytest.mark.parametrize(
    ("images", "classes", "labelled", "title", "legend"),
    [
        (3, 3, True, "PCA of the backbone's features, 3 validation images", ["_a$ 0", "_a$ 1", "_a$ 2"]),
        (40, 1, True, "PCA of the backbone's features, 40 validation images", ["_a$ 0"]),
        (40, 4, False, "PCA of the backbone's features, 40 validation images", []),
        (1, 1, False, "PCA of the backbone's features, 1 validation images", []),
        (100, 2, True, "t-SNE of the backbone's features, 100 validation images", ["_a$ 0", "_a$ 1"]),
        (90, 30, True, "PCA of the backbone's features, 90 validation images", ["others", *FIRST_20]),
    ],
)  # fmt: skip
def test_the_map_says_what_it_is_and_names_its_classes(
    images: int, classes: int, labelled: bool, title: str, legend: list[str], tmp_path: Path, drawn: list[Figure]
) -> None:
    features, targets = blobs(images, classes)
    names = [f"_a$ {i}" for i in range(classes)] if labelled else []
    save_embedding(features, targets if labelled else targets * 0 - 1, names, "validation", tmp_path / "map.png")
    (axis,) = drawn[0].axes
    assert axis.get_title() == title
    found = axis.get_legend()
    assert ([text.get_text() for text in found.get_texts()] if found else []) == legend
    looks = [(str(dots.get_facecolor()), str(dots.get_paths()[0].vertices)) for dots in axis.collections]
    assert len(set(looks)) == len(looks) == max(1, len(legend))
    assert sum(len(dots.get_offsets()) for dots in axis.collections) == images
    assert len(legend) <= MAX_CLASSES + 1


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_collapsed_backbone_has_its_picture_too(value: float, tmp_path: Path) -> None:
    save_embedding(torch.full((100, 4), value), torch.arange(100) % 2, ["a", "b"], "validation", tmp_path / "map.png")
    assert (tmp_path / "map.png").exists()


@pytest.mark.usefixtures("pictures")
def test_a_run_logs_the_rate_of_each_epochs_last_step_and_leaves_both_pictures(run: Run, folder: Path) -> None:
    flags = ["--epochs", "3", "--scheduler", "step", "--lr_decay_steps", "2", "--lr", "0.4", "--run_id", "run"]
    code, _, err = run("main_contrastive.py", "digits", "resnet18", *TINY, *flags)
    assert (code, err) == (0, "")
    rows = read_rows(folder / "trained_models/run/metrics.csv")
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.1, 0.01])  # 0.4 per 256 images, of 64
    for name in ("curves.png", "embedding.png"):
        assert Image.open(folder / f"trained_models/run/{name}").width > 500


@pytest.mark.usefixtures("pictures")
def test_without_labels_or_validation_the_map_is_of_training_images(
    run: Run, folder: Path, drawn: list[Figure]
) -> None:
    from tests.pictures import write_classes

    write_classes(folder, {"flat": 70})
    flags = ["--train_dir", "flat", "--crop_size", "16", "--gaussian_prob", "0", "--max_steps", "1"]
    code, _, err = run("main_contrastive.py", "custom", "resnet18", *flags, *TINY)
    assert (code, err) == (0, "")
    titles = [axis.get_title() for figure in drawn for axis in figure.axes]
    assert "PCA of the backbone's features, 70 training images" in titles
    assert "accuracy, %" not in titles
