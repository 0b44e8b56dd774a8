"""--precision 64: whole runs on one, two and three processes end with equal weights.

In float32 a ReLU whose input rounds to the other side of 0 moves a gradient by up to 3 %, so that whole runs of
different numbers of processes cannot be compared there.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cl.config.methods import METHODS
from tests.conftest import TINY, Run
from tests.kills import write_images
from tests.programs import run_program
from tests.teachers import method_flags

COMMON = ["--train_dir", "train", "--val_dir", "val", "--crop_size", "32", "--optimizer", "sgd", "--lr", "0.1"]
COMMON += ["--proj_hidden_dim", "16", "--proj_output_dim", "8", "--epochs", "3", "--precision", "64"]
COMMON += ["--accelerator", "cpu", "--num_workers", "0"]
FLAGS = ["custom", "resnet18", "--width", "8", "--no_zero_init_residual", *COMMON]
GLOBAL_BATCH = 96  # all images: one step per epoch
DEFAULT_RUN = ("byol",)  # the others are slow tests


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("double")
    write_images(folder)
    return folder


def final_state(folder: Path, method: str, processes: int, flags: list[str] = FLAGS) -> dict[str, Tensor]:
    batches = 2 if "--accumulate" in flags else 1
    run_id = f"{method}-{flags[1].replace('/', '-')}-{processes}" + "-queue" * ("--queue_size" in flags)
    run_id += "-exact" * (batches - 1)
    share = ["--batch_size", str(GLOBAL_BATCH // batches // processes), "--devices", str(processes), "--run_id", run_id]
    done = run_program(folder, "main_contrastive.py", *flags, *method_flags(method), *share, ranks=processes)
    assert (done.returncode, done.stderr) == (0, "")
    return torch.load(folder / f"trained_models/{run_id}/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "method", [name if name in DEFAULT_RUN else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_whole_runs_of_one_two_and_three_processes_end_with_equal_weights(images: Path, method: str) -> None:
    assert_equal_runs(*(final_state(images, method, processes) for processes in (1, 2, 3)))


@pytest.mark.slow
def test_so_do_those_of_swav_with_a_queue_that_is_used_in_the_last_step(images: Path) -> None:
    flags = [*FLAGS, "--small_crop_size", "16", "--multicrop", "--queue_size", "100", "--queue_start_epoch", "0"]
    one, *others = (final_state(images, "swav", processes, flags) for processes in (1, 2, 3))
    assert one["queue.written"] == 3 * GLOBAL_BATCH
    assert_equal_runs(one, *others)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nnclr", "swav"])
def test_so_do_those_with_exact_negatives_and_a_queue(images: Path, method: str) -> None:
    flags = [*FLAGS, "--accumulate", "2", "--exact_negatives", "--queue_size", "100"]  # no multiple of a batch
    if method == "swav":
        flags += ["--queue_start_epoch", "0"]
    one, *others = (final_state(images, method, processes, flags) for processes in (1, 2, 3))
    assert_equal_runs(one, *others)


@pytest.mark.slow
def test_so_do_those_of_a_vision_transformer_with_moco_v3(images: Path) -> None:
    flags = ["custom", "timm/vit_tiny_patch16_224", *COMMON]
    assert_equal_runs(*(final_state(images, "moco_v3", processes, flags) for processes in (1, 2, 3)))


def assert_equal_runs(one: dict[str, Tensor], two: dict[str, Tensor], three: dict[str, Tensor]) -> None:
    assert {tensor.dtype for tensor in one.values()} == {torch.float64, torch.int64}
    for several in (two, three):
        for name, expected in one.items():
            torch.testing.assert_close(several[name], expected, rtol=1e-8, atol=1e-10, msg=name)


def test_linear_evaluation_runs_in_double_precision_on_the_exported_weights(run: Run, folder: Path) -> None:
    flags = ["digits", "resnet18", "--precision", "64"]
    assert run("main_contrastive.py", *flags, *TINY, "--max_steps", "2", "--run_id", "run")[0] == 0
    for protocol in ("standard", "cached"):
        evaluation = ["--pretrained_feature_extractor", "trained_models/run", "--protocol", protocol, "--epochs", "1"]
        assert run("main_linear.py", *flags, *evaluation, "--run_id", protocol)[0] == 0
