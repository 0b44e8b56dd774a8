"""Linear evaluation: grid heads equal single heads, validation images are read once, the backbone is unchanged."""

import csv
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import main_contrastive
from cl.backbones import build_backbone
from cl.batch import Batch
from cl.cli import parse
from cl.config.backbone import BackboneConfig
from cl.config.data import DataConfig
from cl.config.optim import LinearOptimConfig
from cl.config.programs import Linear
from cl.config.run import RunConfig
from cl.data.executors.resident import ResidentExecutor
from cl.data.sampler import RankSlice, SampleKey, TrainSampler
from cl.data.sources.digits import digits
from cl.data.views.rows import CentreView
from cl.data.views.spec import EvalSpec
from cl.errors import Stopped
from cl.evaluation.features import Labelled
from cl.evaluation.offline.cached_protocol import MirrorFeatures
from cl.evaluation.offline.feature_grid import HeadTraining, train_best_head, train_heads
from cl.evaluation.offline.feature_scores import feature_scores, labelled_only
from cl.evaluation.offline.frozen_check import check_unchanged, snapshot
from cl.evaluation.offline.label_split import fraction_per_class, split_held_out
from cl.evaluation.offline.linear_evaluation import LinearEvaluation, chosen_point
from cl.nn.heads import linear_head
from cl.optim.schedules import Budget, Schedule
from cl.run.folder import atomic_files
from cl.run.folder.linear_results import save_linear_results
from tests.conftest import TINY, Run

LINEAR = "main_linear.py"
ON_FIRST = ["digits", "resnet18", "--pretrained_feature_extractor", "trained_models/first"]
GRID = ["--lr", "0.3", "0.03", "--weight_decay", "0", "0.01"]
generator = torch.Generator().manual_seed(0)
FEATURES = torch.randn(200, 2, 12, generator=generator).relu()
TARGETS = (FEATURES[:, 0] @ torch.randn(12, 5, generator=generator)).argmax(dim=1)
POINTS = LinearOptimConfig(lr=(0.01, 0.1, 1.0), weight_decay=(0.0, 0.01)).grid


def train_one_head(lr: float, decay: float, training: HeadTraining, start: nn.Linear) -> Tensor:
    """A head [C, F + 1] that torch's SGD trains on the images without their mirrors."""
    head = nn.Linear(12, 5)
    head.load_state_dict(start.state_dict())
    sampler = TrainSampler(len(TARGETS), training.batch, training.run.seed, RankSlice(0, 1))
    optimizer = torch.optim.SGD(head.parameters(), lr=lr * training.batch / 256, momentum=0.9, weight_decay=decay)
    budget = Budget(training.batch, len(sampler), len(sampler) * training.run.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Schedule.of(POINTS[0], budget))
    for epoch in range(training.run.epochs):
        sampler.epoch = epoch
        for keys in sampler:
            index = [i for _, i in keys]
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(FEATURES[index, 0]), TARGETS[index]).backward()
            optimizer.step()
            schedule.step()
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach()


def test_each_head_of_a_grid_equals_one_that_torchs_sgd_trains() -> None:
    torch.manual_seed(0)
    start, training = linear_head(12, 5), HeadTraining(RunConfig(epochs=20), batch=32, flip_prob=0.0, fill=False)
    heads = train_heads(Labelled(FEATURES, TARGETS), start, POINTS, training)
    assert heads.shape == (6, 5, 13)
    for point, head in zip(POINTS, heads, strict=True):
        expected = train_one_head(point.lr, point.weight_decay, training, start)
        assert (head - expected).norm() < 1e-5 * expected.norm()


def test_heads_see_mirrors_with_the_flip_probability() -> None:
    plain, mirror = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    images = Labelled(torch.stack([plain, mirror]).expand(64, 2, 2), torch.zeros(64, dtype=torch.int64))
    head = nn.Linear(2, 3)
    nn.init.zeros_(head.weight)
    updates = {}
    for flip_prob in (0.0, 0.5, 1.0):
        training = HeadTraining(RunConfig(epochs=1, max_steps=1), batch=64, flip_prob=flip_prob, fill=False)
        updates[flip_prob] = train_heads(images, head, POINTS[:1], training)[0, 0, :2] - head.weight[0].detach()
    assert updates[0.0][1] == 0
    assert updates[1.0][0] == 0
    assert 0.2 < float(updates[0.5][1] / updates[0.5].sum()) < 0.8


def test_a_converged_head_is_scikit_learns_logistic_regression() -> None:
    """Both minimise mean cross-entropy plus decay / 2 times all squared weights, bias included: C = 1 / (N decay)."""
    decay, x = 0.01, FEATURES.double()
    point = LinearOptimConfig(lr=(1.0,), weight_decay=(decay,), scheduler="none").grid
    training = HeadTraining(RunConfig(epochs=1500), batch=200, flip_prob=0.0, fill=False)
    (ours,) = train_heads(Labelled(x, TARGETS), nn.Linear(12, 5), point, training)
    columns = np.concatenate([x[:, 0].numpy(), np.ones((200, 1))], axis=1)
    theirs = LogisticRegression(C=1 / (200 * decay), fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(columns, TARGETS.numpy())
    np.testing.assert_allclose(ours.numpy(), theirs.coef_, atol=1e-5)


def evaluation(*flags: str) -> LinearEvaluation:
    torch.manual_seed(0)
    config = parse(Linear, [*ON_FIRST, *flags]).config
    return LinearEvaluation(build_backbone(BackboneConfig("resnet18", width=4), 8), 10, config, Budget(16, 4, 8))


@pytest.mark.parametrize(("precision", "fused"), [("32", True), ("bf16-mixed", True), ("16-mixed", None)])
def test_a_grad_scaler_never_meets_a_fused_optimizer(
    precision: str, fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's fused SGD leaves its momentum uninitialised if the scaler skips the first step."""
    monkeypatch.setattr("cl.optim._on_gpu", lambda groups: True)
    optimizer = evaluation("--precision", precision).configure_optimizers()["optimizer"]
    assert all(group["fused"] is fused for group in optimizer.param_groups)


def train_three_steps(module: LinearEvaluation) -> LinearEvaluation:
    """Take three optimizer steps on fixed random views."""
    optimizer = module.configure_optimizers()["optimizer"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        views = torch.randn(1, 16, 3, 8, 8, generator=generator)
        loss = module.training_step(Batch(torch.arange(16), (views,), torch.arange(16) % 10), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


def test_each_head_of_the_standard_grid_equals_a_single_head_with_its_pair() -> None:
    module = train_three_steps(evaluation(*GRID))
    assert len(module.heads) == 4
    for point, head in zip(module.grid, module.heads, strict=True):
        single = train_three_steps(evaluation("--lr", str(point.lr), "--weight_decay", str(point.weight_decay)))
        torch.testing.assert_close(head.state_dict(), single.head.state_dict(), rtol=1e-5, atol=1e-7)


def test_the_chosen_pair_is_retrained_on_all_images() -> None:
    module, training = evaluation("--protocol", "cached", *GRID), HeadTraining(RunConfig(epochs=3), 32, 0.0, False)
    images, start = Labelled(torch.randn(200, 1, 32), TARGETS), module.head
    train_part, held_out = map(torch.from_numpy, split_held_out(TARGETS.numpy()))
    heads = train_heads(Labelled(images.features[train_part], TARGETS[train_part]), start, module.grid, training)
    predictions = [(images.features[held_out, 0] @ head[:, :-1].T + head[:, -1]).argmax(dim=1) for head in heads]
    accuracies = tuple((prediction == TARGETS[held_out]).double().mean().item() for prediction in predictions)
    best = max(range(4), key=lambda i: accuracies[i])
    (expected,) = train_heads(images, start, [module.grid[best]], training)
    train_best_head(module, images, training)
    assert (module.accuracies, module.best) == (pytest.approx(accuracies), best)
    assert torch.equal(module.head.weight, expected[:, :-1])
    assert torch.equal(module.head.bias, expected[:, -1])


def test_of_equally_accurate_pairs_the_smallest_is_chosen() -> None:
    module = evaluation(*GRID)
    assert [(point.lr, point.weight_decay) for point in module.grid] == [(0.03, 0), (0.03, 0.01), (0.3, 0), (0.3, 0.01)]
    module.choose((0.5, 0.75, 0.75, 0.5))
    assert module.best == 1
    assert chosen_point(module) == {
        "offline_linear/held_out_top1": 0.75,
        "offline_linear/lr": 0.03,
        "offline_linear/weight_decay": 0.01,
    }


def test_the_held_out_tenth_is_stratified_disjoint_and_deterministic() -> None:
    targets = np.repeat([0, 1, 2, 7], [100, 50, 3, 1])
    train_part, held_out = split_held_out(targets)
    assert sorted([*train_part, *held_out]) == list(range(154))
    assert np.unique(targets[held_out], return_counts=True)[1].tolist() == [10, 5, 1]  # class 7 keeps its only image
    assert set(targets[train_part]) == {0, 1, 2, 7}
    assert np.array_equal(split_held_out(targets)[1], held_out)
    assert not np.array_equal(np.diff(held_out[:10]), np.full(9, held_out[1] - held_out[0]))  # drawn, not every tenth


def test_a_label_fraction_is_taken_per_class_with_at_least_one_image() -> None:
    targets = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [1000, 300, 4]))
    indices = fraction_per_class(targets, 0.01, seed=0)
    assert np.bincount(targets[indices]).tolist() == [10, 3, 1]
    assert np.array_equal(fraction_per_class(targets, 0.01, seed=0), indices)
    assert not np.array_equal(fraction_per_class(targets, 0.01, seed=1), indices)


def test_validation_images_without_a_label_are_not_counted() -> None:
    labels = torch.arange(40) % 10
    bank = Labelled(torch.randn(40, 32), labels)
    queries = labelled_only(Labelled(bank.features[:20], torch.where(torch.arange(20) < 10, labels[:20], -1)))
    expected = feature_scores(bank, Labelled(bank.features[:10], labels[:10]), few_shot=False)
    assert feature_scores(bank, queries, few_shot=False) == expected


def test_with_one_class_few_labels_give_the_only_answer_as_knn_does() -> None:
    bank = Labelled(FEATURES[:60, 0], torch.zeros(60, dtype=torch.int64))
    scores = feature_scores(bank, Labelled(bank.features[:10], bank.targets[:10]), few_shot=True)
    assert {value for name, value in scores.items() if name.endswith("top1")} == {1.0}
    assert scores["few_shot_1/val_top1_std"] == 0


def test_mirror_features_are_those_of_the_image_and_its_mirror() -> None:
    backbone = build_backbone(BackboneConfig("resnet18", width=4), 8).eval()
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        features = MirrorFeatures(backbone, mirrors=True)(images)
        assert torch.equal(features[:, 0], backbone(images))
        assert torch.equal(features[:, 1], backbone(images.flip(-1)))
        assert MirrorFeatures(backbone, mirrors=False)(images).shape == (3, 1, 32)


def test_a_head_is_written_whole_or_the_run_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "PAUSE", 0)
    linear = evaluation()
    linear.row = {}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))  # as a disk that is full
    try:
        with pytest.raises(Stopped, match=r"head.safetensors cannot be written \(File too large"):
            save_linear_results(linear, 1.0, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not list(tmp_path.iterdir())


def test_any_change_of_the_backbone_is_detected() -> None:
    backbone = build_backbone(BackboneConfig("resnet18", width=4), 8)
    backbone.bn1.weight.data[0] = torch.nan
    before = snapshot(backbone)
    check_unchanged(backbone, before)
    backbone.bn1.num_batches_tracked += 1
    with pytest.raises(RuntimeError, match=r"no longer matches the checkpoint: bn1.num_batches_tracked$"):
        check_unchanged(backbone, before)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after two steps."""
    runs = str(tmp_path_factory.mktemp("runs"))
    flags = ["--max_steps", "2", "--output_dir", runs, "--run_id", "first", "--knn_bank", "64", "--limit_eval", "64"]
    main_contrastive.main(["digits", "resnet18", *TINY, *flags])
    return Path(runs) / "first/last.ckpt"


@pytest.fixture
def pretrained(folder: Path, backbone_file: Path) -> None:
    """That checkpoint in `trained_models/first` of an otherwise empty folder."""
    (folder / "trained_models/first").mkdir(parents=True)
    shutil.copy(backbone_file, folder / "trained_models/first")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The indices of the images read: per split for evaluation, and "views" for augmented views."""
    split_of_size = {360: "val", 1437: "train"}
    indices: dict[str, list[int]] = {"val": [], "train": [], "views": []}
    original = ResidentExecutor.read

    def recording_read(self: ResidentExecutor, keys: list[SampleKey]) -> Any:
        split = split_of_size.get(len(self.targets), "held out") if isinstance(self.planner, CentreView) else "views"
        indices.setdefault(split, []).extend(i for _, i in keys)
        return original(self, keys)

    monkeypatch.setattr(ResidentExecutor, "read", recording_read)
    return indices


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def check_outputs(out: str, run_id: str) -> None:
    """Check summary, metrics, grid, head and closing lines of a run with a grid."""
    run_folder = Path("trained_models") / run_id
    summary: dict[str, float] = json.loads((run_folder / "summary.json").read_text())
    rows, grid = read_table(run_folder / "metrics.csv"), read_table(run_folder / "grid.csv")
    for name in ("offline_linear/val_top1", "offline_linear/val_top5", "knn_k20_t0.07/val_top1", "few_shot_5/val_top1"):
        assert f"{100 * summary[name]:.1f} %" in out
        assert float(rows[-1][name]) == pytest.approx(summary[name], rel=1e-5)
    best = max(grid, key=lambda row: float(row["held_out_top1"]))  # the first of several
    assert summary["offline_linear/lr"] == float(best["lr"])
    assert summary["offline_linear/weight_decay"] == float(best["weight_decay"])
    assert summary["offline_linear/held_out_top1"] == pytest.approx(float(best["held_out_top1"]), rel=1e-5)
    assert f"--lr {best['lr']} --weight_decay {best['weight_decay']} was the most accurate" in " ".join(out.split())
    assert summary["offline_linear/val_top1"] == pytest.approx(accuracy_of(run_folder / "head.safetensors"))
    assert (run_folder / "linear_grid.png").stat().st_size > 5000


def accuracy_of(head: Path) -> float:
    """The accuracy of the saved head on the pretrained backbone's features, computed without cl.evaluation."""
    weights = torch.load("trained_models/first/last.ckpt", weights_only=True)["state_dict"]
    backbone = build_backbone(BackboneConfig("resnet18", width=4), 8).eval()
    backbone.load_state_dict({key[9:]: value for key, value in weights.items() if key.startswith("backbone.")})
    splits, layer = digits(DataConfig()), load_file(head)
    assert splits.val is not None
    executor = ResidentExecutor(splits.val, CentreView(EvalSpec(8)), splits.norm, torch.device("cpu"))
    batch = executor.to_batch(executor.read([(0, i) for i in range(360)]))
    with torch.no_grad():
        predictions = (backbone(batch.views[0][0]) @ layer["weight"].T + layer["bias"]).argmax(dim=1)
    return float((predictions == batch.target).double().mean())


def test_the_standard_grid_reads_the_validation_images_once(
    run: Run, pretrained: None, reads: dict[str, list[int]]
) -> None:
    code, out, err = run(LINEAR, *ON_FIRST, *GRID, "--epochs", "2", "--few_shot", "--run_id", "grid")
    assert (code, err) == (0, "")
    assert reads["val"] == list(range(360))
    assert reads["train"] == list(range(1437))  # the bank of kNN
    assert len(reads["held out"]) == 2 * 142
    assert max(reads["views"]) < 1437 - 142
    assert out.count("held out") == 2
    check_outputs(out, "grid")
    assert len(read_table(Path("trained_models/grid/grid.csv"))) == 4
    assert "on the other nine tenths" in out


def test_the_cached_protocol_reads_each_image_once_and_has_at_least_twenty_pairs(
    run: Run, pretrained: None, reads: dict[str, list[int]]
) -> None:
    code, out, err = run(LINEAR, *ON_FIRST, "--protocol", "cached", "--epochs", "5", "--few_shot", "--run_id", "grid")
    assert (code, err) == (0, "")
    assert reads == {"val": list(range(360)), "train": list(range(1437)), "views": []}
    assert len(read_table(Path("trained_models/grid/grid.csv"))) >= 20
    check_outputs(out, "grid")
    assert "then trained on all of them" in " ".join(out.split())


def test_the_cached_protocol_with_one_pair_chooses_nothing(
    run: Run, pretrained: None, reads: dict[str, list[int]]
) -> None:
    flags = ["--protocol", "cached", "--lr", "0.1", "--epochs", "3", "--label_fraction", "0.25", "--flip_prob", "0.5"]
    code, out, err = run(LINEAR, *ON_FIRST, *flags, "--run_id", "one")
    assert (code, err) == (0, "")
    assert "--label_fraction 0.25 leaves 359 of 1437 training images" in out
    assert "features of 359 training images and their mirrors" in out
    assert not Path("trained_models/one/grid.csv").exists()
    assert reads["val"] == list(range(360))


def test_a_run_that_changes_the_backbone_ends_in_an_error(
    run: Run, pretrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinearEvaluation, "train", nn.Module.train)  # the classic mistake: batch norm keeps updating
    with pytest.raises(RuntimeError, match=r"no longer matches the checkpoint: bn1\.num_batches_tracked"):
        run(LINEAR, *ON_FIRST, "--fast_dev_run", "--run_id", "wrong")
    assert not Path("trained_models/wrong/summary.json").exists()


def test_fine_tuning_trains_the_backbone_at_its_own_rate(run: Run, pretrained: None) -> None:
    flags = ["--finetune", "--epochs", "2", "--backbone_lr_factor", "0.5"]
    code, out, err = run(LINEAR, *ON_FIRST, *flags, "--run_id", "tuned")
    assert (code, err) == (0, "")
    before, after = (
        torch.load(f"trained_models/{name}/last.ckpt", weights_only=True)["state_dict"] for name in ("first", "tuned")
    )
    assert not torch.equal(before["backbone.conv1.weight"], after["backbone.conv1.weight"])
    assert not torch.equal(before["backbone.bn1.running_mean"], after["backbone.bn1.running_mean"])
    summary = json.loads(Path("trained_models/tuned/summary.json").read_text())
    assert summary["finetuned/val_top1"] > 0.15  # chance is 0.1
    assert "finetuned  top-5" in out
    assert "offline" not in out
    assert not any(name.startswith("knn") for name in summary)
    head, backbone = evaluation(*flags, "--lr", "0.8").configure_optimizers()["optimizer"].param_groups
    assert backbone["initial_lr"] == pytest.approx(0.5 * head["initial_lr"])
