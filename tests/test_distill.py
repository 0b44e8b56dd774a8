"""Distillation: targets are a teacher's features, centred over the data set, computed once, never those of another."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

import cl
from cl.batch import Batch
from cl.cli import parse
from cl.config.programs import Pretrain
from cl.data.datamodule import ImageData
from cl.data.images import ArraySet, FileSet, Splits
from cl.data.sampler import RankSlice
from cl.data.settings import pretrain_settings
from cl.evaluation import feature_blocks
from cl.evaluation.feature_blocks import remembered
from cl.methods.targets import FeatureTable, TeacherNetwork
from cl.run.train import teaching
from cl.run.train.teaching import give_targets, with_teacher
from tests.conftest import TINY, Run
from tests.pictures import write_classes
from tests.teachers import method_flags, write_teacher
from tests.test_methods import batch, build, double
from tests.test_resume import AUTO, break_off
from tests.test_state import SKIPPED, TAKEN

PRETRAIN = "main_contrastive.py"
CPU = torch.device("cpu")
FLAGS = ["digits", "resnet18", *TINY, "--method", "distill", "--distill_from"]


@pytest.mark.parametrize("small", [0, 6])
def test_the_loss_is_the_mean_distance_of_all_views_from_their_images_centred_features(small: int) -> None:
    module = build("distill").double()
    rows = np.random.default_rng(0).normal(3, 1, size=(40, 8)).astype(np.float32)
    module.targets = FeatureTable([rows[:16], rows[16:32], rows[32:]])
    images = double(batch(small=small))
    images = Batch(images.index + 20, images.views, images.target)
    z = module.projector(torch.cat([module.backbone(views.flatten(0, 1)) for views in images.views]))
    z = rearrange(z, "(v b) d -> v b d", b=16)
    mean = torch.from_numpy(rows.astype(np.float64).mean(axis=0))
    terms = []
    for view in z:
        for i, index in enumerate(images.index.tolist()):
            target = torch.from_numpy(rows[index]).double() - mean
            terms.append(1 - view[i] @ target / (view[i].norm() * target.norm()))
    assert len(terms) == 16 * (2 + small)
    torch.testing.assert_close(module.step(images).loss, sum(terms) / len(terms), rtol=1e-6, atol=1e-7)


def test_a_table_in_files_has_the_rows_of_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    index = torch.tensor([24, 0, 9, 10, 10, 19])
    kept = FeatureTable([rows[:10], rows[10:20], rows[20:]]).rows(index)
    monkeypatch.setattr("cl.methods.targets.KEPT", 0)
    assert torch.equal(FeatureTable([rows[:10], rows[10:20], rows[20:]]).rows(index), kept)
    assert torch.allclose(kept, torch.from_numpy(rows[index] - rows.mean(axis=0)), atol=1e-6)


def test_the_teacher_is_in_no_checkpoint_and_its_moving_centre_is() -> None:
    assert not [name for name in build("distill").state_dict() if "target" in name or "centre" in name]
    same = build("distill", "--distill_views", "same")
    assert [name for name in same.state_dict() if "centre" in name] == ["centre.values"]
    features = same.targets(batch())
    same.step(batch())
    same.after_step(SKIPPED)
    assert not same.centre.values.any()
    same.step(batch())
    same.after_step(TAKEN)
    torch.testing.assert_close(same.centre.values, 0.01 * features.flatten(0, 1).mean(dim=0))


def prepared(folder: Path, *flags: str) -> tuple[Tensor, ImageData, object]:
    """The table, the images and the teacher of a run on digits."""
    resolved, teacher = with_teacher(parse(Pretrain, [*FLAGS, str(folder / "backbone.safetensors"), *flags]))
    pixels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    splits = Splits(ArraySet(pixels, np.zeros(64, np.int64)), None, (), ((0.4,) * 3, (0.2,) * 3))
    data = ImageData(splits, pretrain_settings(resolved.config, RankSlice(0, 1), CPU))
    module = build("distill", *flags)
    rows = give_targets(module, teacher, data, resolved.config)
    assert rows["teacher"].endswith(teacher.sha256[:16])
    return module.targets, data, teacher


def test_cached_targets_are_those_of_the_evaluation_views(folder: Path) -> None:
    """Also after the normalisation of the student was changed into that of the teacher."""
    write_teacher(folder / "teacher")
    table, data, _ = prepared(folder / "teacher")
    network, *_ = prepared(folder / "teacher", "--distill_views", "same")
    assert isinstance(network, TeacherNetwork)
    seen = torch.cat([network(views)[0] for views in data.eval_loader(data.splits.train)])
    torch.testing.assert_close(table.rows(torch.arange(64)), seen - seen.mean(dim=0), rtol=1e-5, atol=1e-6)


def test_another_teacher_size_or_image_is_another_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    compute = teaching.extract_features
    monkeypatch.setattr(teaching, "extract_features", lambda *args: (calls.append(1), compute(*args))[1])

    def computes(*flags: str) -> bool:
        calls.clear()
        prepared(folder / "teacher", *flags)
        return bool(calls)

    write_teacher(folder / "teacher")
    assert computes()
    assert not computes()
    assert computes("--distill_size", "16")
    write_teacher(folder / "teacher", seed=1)
    assert computes()
    write_classes(folder / "images", {"a": 2})
    names = ["a/0.png", "a/1.png"]
    images = FileSet(folder / "images", names, np.zeros(2, np.int64), 3)
    before = images.fingerprint()
    assert before == FileSet(folder / "images", names, np.zeros(2, np.int64), 3).fingerprint()
    assert before != FileSet(folder / "images", names[::-1], np.zeros(2, np.int64), 3).fingerprint()
    (folder / "images/a/0.png").touch()
    assert images.fingerprint() != before


def test_a_killed_computation_goes_on_with_the_blocks_that_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_blocks, "BLOCK", 10)
    asked: list[int] = []

    def compute(index: np.ndarray) -> Tensor:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(int(index[0]))
        return torch.from_numpy(index[:, None].astype(np.float32))

    with pytest.raises(KeyboardInterrupt):
        remembered(folder / "kept", 25, compute)
    (folder / "kept/000001.npy").write_bytes(b"damaged")
    asked.clear()
    blocks = remembered(folder / "kept", 25, compute)
    assert asked == [10, 20]
    assert np.concatenate(blocks)[:, 0].tolist() == list(range(25))
    asked[:] = [0, 0]
    assert [len(block) for block in remembered(folder / "kept", 25, compute)] == [10, 10, 5]  # nothing is computed


def test_a_run_names_its_teacher_and_goes_on_with_no_other(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_teacher(folder / "teacher")
    flags = [*FLAGS, "teacher", "--batch_size", "64", "--run_id", "run", "--knn_every", "1"]
    code, out, err = run(PRETRAIN, *flags, "--distill_licence", "CC-BY-NC-4.0", "--max_steps", "4")
    assert (code, err) == (0, "")
    assert "CC-BY-NC-4.0: that of the teacher; its terms may also apply to the student" in " ".join(out.split())
    card = json.loads(Path("trained_models/run/backbone.json").read_text())
    assert card["teacher"]["source"] == "teacher"
    assert card["teacher"]["licence"] == "CC-BY-NC-4.0"
    assert len(card["teacher"]["sha256"]) == 64
    assert cl.load_backbone("trained_models/run").card.teacher == card["teacher"]
    flags = [*flags, "--max_steps", "8", "--run_id", "killed", "--checkpoint_every_n_steps", "1"]
    break_off(run, monkeypatch, 3, PRETRAIN, *flags)
    write_teacher(folder / "teacher", seed=1)
    code, _, err = run(PRETRAIN, *flags, *AUTO)
    assert code == 2
    assert "expected the teacher of --distill_sha256" in err
    code, out, _ = run(PRETRAIN, *FLAGS, "teacher", "--dry_run", "--batch_size", "64")
    assert code == 0
    assert "a dry run does not compute" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--distill_from: not given, expected a teacher"),
        (["--distill_from", "nowhere"], "--distill_from: got nowhere"),
        (["--distill_from", "grey"], "got grey for 1 channels, expected one for the 3 of --in_channels"),
        (["--distill_from", "teacher", "--proj_output_dim", "5"], "--proj_output_dim: got 5, expected 8"),
        (["--distill_from", "weights.pt"], "has no card, so its encoder must be given"),
        (["--distill_from", "weights.pt", "--distill_encoder", "resnet18"], "--mean and --std: not given"),
        (["--distill_from", "broken"], "not finite"),
        (["--distill_from", "timm/no_such_network"], "--distill_from: got timm/no_such_network, which timm"),
    ],
)
def test_a_bad_teacher_is_refused_in_one_line(run: Run, folder: Path, flags: list[str], said: str) -> None:
    write_teacher(folder / "teacher")
    write_teacher(folder / "grey", channels=1)
    torch.save(cl.load_backbone(folder / "teacher").state_dict(), folder / "weights.pt")
    broken = write_teacher(folder / "broken")
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(broken, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["conv1.weight"][0] = torch.nan
    save_file(tensors, broken, metadata)
    code, out, err = run(PRETRAIN, *FLAGS[:-1], *flags)
    assert code == 2, out
    assert said in err
    assert len(err.splitlines()) == 1


def test_one_view_is_enough_and_more_are_taken(run: Run) -> None:
    code, out, _ = run(PRETRAIN, *FLAGS[:-3], *method_flags("distill"), "--max_steps", "2", "--n_crops", "2")
    assert code == 0, out
    code, _, err = run(PRETRAIN, *FLAGS[:-3], "--method", "simclr", "--n_crops", "1")
    assert code == 2
    assert "--n_crops: got 1 with --method simclr, expected at least 2" in err
