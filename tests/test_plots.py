"""The pictures of a run: they show the measured values and are drawn even if some are missing."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

from cl.data.images import ArraySet
from cl.evaluation.pictures.curves_picture import read_rows, save_curves
from cl.evaluation.pictures.embedding_picture import MAX_CLASSES, pca, save_embedding, tsne
from cl.evaluation.pictures.embedding_points import SIDE, THUMBNAILS, Points, save_points
from cl.report_page.embedding import read_embedding
from tests.conftest import TINY, Run

FIRST_20 = [f"_a$ {i}" for i in range(20)]
ROWS = [{"epoch": epoch, "loss": 6.0 / epoch, "lr": 0.1, "online_linear/val_top1": epoch / 10} for epoch in (1, 2, 3)]


@pytest.fixture
def saved_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved during a test."""
    figures: list[Figure] = []
    save = Figure.savefig

    def recording_save(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", recording_save)
    return figures


def blobs(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, 16] around one direction for each class, and targets [N]."""
    generator, targets = torch.Generator().manual_seed(0), torch.arange(images) % classes
    return torch.eye(16)[targets % 16] + 0.1 * torch.randn(images, 16, generator=generator), targets


def test_curves_have_a_panel_per_measured_quantity_and_lines_across_gaps(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    rows = [row | ({"knn/val_top1": 0.5} if row["epoch"] != 2 else {}) for row in ROWS]
    save_curves(rows, tmp_path / "curves.png")
    panels = {axis.get_title(): axis for axis in saved_figures[0].axes}
    assert list(panels) == ["training loss", "accuracy, %", "learning rate"]
    online, knn = panels["accuracy, %"].lines
    assert (online.get_label(), knn.get_label()) == ("online, validation", "kNN, validation")
    assert online.get_ydata() == pytest.approx([10, 20, 30])
    assert list(knn.get_xdata()) == [1, 3]
    assert list(panels["training loss"].lines[0].get_ydata()) == [6, 3, 2]


def test_curves_of_one_epoch_and_of_non_finite_values_are_drawn(tmp_path: Path) -> None:
    save_curves(ROWS[:1], tmp_path / "one.png")
    save_curves([row | {"loss": float("nan")} for row in ROWS], tmp_path / "nan.png")
    assert all(Image.open(tmp_path / name).width > 500 for name in ("one.png", "nan.png"))


def test_rows_of_metrics_csv_omit_missing_values(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,knn/val_top1\n1,5,5.9,\n2,10,nan,0.5\n")
    first, second = read_rows(tmp_path / "metrics.csv")
    assert first == {"epoch": 1, "step": 5, "loss": 5.9}
    assert second["knn/val_top1"] == 0.5
    assert second["loss"] != second["loss"]


def test_pca_is_the_projection_on_the_plane_of_largest_variance() -> None:
    plane = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([3, 1])
    features = (plane - plane.mean(dim=0)) @ torch.linalg.qr(torch.randn(2, 7, dtype=torch.float64).T).Q.T + 5
    assert torch.cdist(pca(features), pca(features)) == pytest.approx(torch.cdist(plane, plane), abs=1e-6)
    assert pca(features).std(dim=0)[0] > pca(features).std(dim=0)[1]
    assert pca(torch.ones(1, 4)).tolist() == [[0, 0]]
    assert pca(torch.tensor([[0.0], [2.0]])).abs() == pytest.approx(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_tsne_is_deterministic_and_keeps_neighbours() -> None:
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
def test_the_map_has_a_title_and_a_legend_of_its_classes(
    images: int,
    classes: int,
    labelled: bool,
    title: str,
    legend: list[str],
    tmp_path: Path,
    saved_figures: list[Figure],
) -> None:
    features, targets = blobs(images, classes)
    names = [f"_a$ {i}" for i in range(classes)] if labelled else []
    save_embedding(features, targets if labelled else targets * 0 - 1, names, "validation", tmp_path / "map.png")
    (axis,) = saved_figures[0].axes
    assert axis.get_title() == title
    drawn_legend = axis.get_legend()
    assert ([text.get_text() for text in drawn_legend.get_texts()] if drawn_legend else []) == legend
    styles = [(str(dots.get_facecolor()), str(dots.get_paths()[0].vertices)) for dots in axis.collections]
    assert len(set(styles)) == len(styles) == max(1, len(legend))
    assert sum(len(dots.get_offsets()) for dots in axis.collections) == images
    assert len(legend) <= MAX_CLASSES + 1


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_the_map_of_a_collapsed_backbone_is_drawn(value: float, tmp_path: Path) -> None:
    save_embedding(torch.full((100, 4), value), torch.arange(100) % 2, ["a", "b"], "validation", tmp_path / "map.png")
    assert (tmp_path / "map.png").exists()


@pytest.mark.usefixtures("pictures")
def test_a_run_logs_the_rate_of_each_epochs_last_step_and_saves_both_pictures(run: Run, folder: Path) -> None:
    flags = ["--epochs", "3", "--scheduler", "step", "--lr_decay_steps", "2", "--lr", "0.4", "--run_id", "run"]
    code, _, err = run("main_contrastive.py", "digits", "resnet18", *TINY, *flags)
    assert (code, err) == (0, "")
    rows = read_rows(folder / "trained_models/run/metrics.csv")
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.1, 0.01])  # 0.4 per 256 images, of 64
    for name in ("curves.png", "embedding.png"):
        assert Image.open(folder / f"trained_models/run/{name}").width > 500


@pytest.mark.usefixtures("pictures")
def test_without_labels_or_validation_the_map_shows_training_images(
    run: Run, folder: Path, saved_figures: list[Figure]
) -> None:
    from tests.pictures import write_classes

    write_classes(folder, {"flat": 70})
    flags = ["--train_dir", "flat", "--crop_size", "16", "--gaussian_prob", "0", "--max_steps", "1"]
    code, _, err = run("main_contrastive.py", "custom", "resnet18", *flags, *TINY)
    assert (code, err) == (0, "")
    titles = [axis.get_title() for figure in saved_figures for axis in figure.axes]
    assert "PCA of the backbone's features, 70 training images" in titles
    assert "accuracy, %" not in titles


def test_the_points_of_a_map_have_names_clusters_and_thumbnails(tmp_path: Path) -> None:
    shades = torch.tensor([0, 100, 200, 250], dtype=torch.uint8)
    images = ArraySet(shades.view(-1, 1, 1, 1).expand(-1, 3, 8, 10), np.array([0, 0, 1, 1]))
    finite = torch.tensor([True, True, False, True])
    unit = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    points = Points(finite, unit, torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), torch.tensor([0, 0, 1]), "PCA")
    save_points(points, images, ["a", "b"], tmp_path / "embedding.json")
    read = read_embedding(tmp_path)
    assert read is not None
    assert (read["x"], read["y"], read["class"]) == ([0.0, 2.0, 4.0], [1.0, 3.0, 5.0], [0, 0, 1])
    assert read["cluster"] == [0, 0, 1]
    assert read["images"]["names"] == ["image 0", "image 1", "image 3"]
    assert read["images"]["tiles"] == [0, 1, 2]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(read["images"]["jpeg"]))))
    assert [int(sheet[SIDE // 2, SIDE * tile + SIDE // 2, 0]) for tile in range(3)] == [0, 100, 250]


def test_a_map_of_equal_features_is_one_cluster_and_at_most_400_points_have_a_thumbnail(tmp_path: Path) -> None:
    images = ArraySet(torch.zeros(450, 1, 8, 8, dtype=torch.uint8), np.full(450, -1))
    points = Points(torch.ones(450).bool(), torch.ones(450, 2), torch.zeros(450, 2), torch.full((450,), -1), "t-SNE")
    save_points(points, images, [], tmp_path / "embedding.json")
    read = read_embedding(tmp_path)
    assert read is not None
    assert set(read["cluster"]) == {0}
    assert sorted(tile for tile in read["images"]["tiles"] if tile >= 0) == list(range(THUMBNAILS))
