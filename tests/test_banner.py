"""The banner is short and shows what was typed or preset; --verbose shows all; --help begins with ten flags."""

import re
import warnings
from pathlib import Path

import pytest

from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import MOST_USED, Linear, Pretrain
from cl.data.worker_processes import Deliveries
from cl.optim.schedules import Budget
from cl.run.folder.resume_point import StartingPoint
from cl.run.start.banner import LINES, banner, banner_warnings
from cl.run.start.devices import Devices
from cl.run.start.plan import Plan
from tests.conftest import Run

WEIGHTS = (
    "318 of 318 keys of resnet50 matched: under base_encoder.*, MoCo's names; unused: base_encoder.fc.0.weight and 22 "
    "more, 6 under momentum_encoder.*"
)
PLANNED = Plan(
    title="a method on images",
    train_images=1_281_167,
    labelled_images=1_281_167,
    knn_bank=20_000,
    val_images=50_000,
    classes=1000,
    norm=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    norm_origin="of torchvision's ResNet50_Weights.IMAGENET1K_V2",
    notes=(),
    budget=Budget(global_batch=256, steps_per_epoch=5004, steps=500_400),
    warmup_steps=5004,
    devices=Devices("cpu", 1),
    losses_per_step=1,
    loader="fast: 8 workers decode, crop and resize; the device does the rest",
    bytes_in_flight=0,
)
MANY = "timm/vit_tiny_patch16_224 --multicrop --asymmetric_augmentations --init_from weights.pth --optimizer adamw"
LONG = " ".join(f"--{name} /datasets/{'x' * 90}" for name in ("data_folder", "train_dir", "val_dir"))


def lines_of(words: str, weights: str = "") -> list[str]:
    """The banner without its warnings, and with the first line of what is said of weights."""
    program = Linear if "--pretrained_feature_extractor" in words else Pretrain
    text = banner(parse(program, words.split()), PLANNED, StartingPoint(Path("trained_models/run")), weights)
    numbers, _, said = text.split("\n  warning ")[0].partition("\n  weights ")
    return [*numbers.splitlines(), *said.splitlines()[:1]]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"distill"}))
@pytest.mark.parametrize("flags", ["resnet18", MANY, f"resnet50 {LONG} {LONG}"], ids=["few", "many", "long"])
def test_the_banner_has_at_most_twelve_lines_whatever_is_typed_and_preset(method: str, flags: str) -> None:
    lines = lines_of(f"cifar10 {flags} --method {method}", weights=WEIGHTS if "init_from" in flags else "")
    assert len(lines) <= LINES == 12
    assert any(line.startswith("  typed  ") for line in lines)
    assert not any(line.startswith("  default  ") for line in lines)


def test_a_row_that_is_cut_says_how_to_see_the_rest() -> None:
    cut = [line for line in lines_of(f"cifar10 {MANY} --method dino") if line.endswith("... (--verbose)")]
    assert cut
    short = lines_of("custom resnet18 --train_dir photos")
    assert "  typed               dataset custom, train_dir photos, encoder resnet18" in short


def test_verbose_shows_every_value_and_its_origin() -> None:
    text = " ".join(" ".join(lines_of("digits resnet18 --verbose")).split())
    shown = text.replace(", ", " ")
    for value in ("typed dataset digits", "encoder resnet18", "verbose True", "default in_channels 3", "min_lr 0 "):
        assert value in shown, value
    assert "(--verbose)" not in text
    assert len(lines_of("digits resnet18 --verbose")) > LINES


@pytest.mark.parametrize(
    ("words", "warning"),
    [
        ("--dali_device cpu", "--dali_device has no effect without --loader dali"),
        ("--shuffle_window 4", "--shuffle_window has no effect without --shuffle shards"),
        ("--exact_negatives", "--exact_negatives has no effect without --accumulate"),
        ("--exact_negatives --method byol --accumulate 2", "--exact_negatives has no effect with --method byol"),
        ("--exact_negatives --accumulate 2", ""),
        ("--no_exact_negatives --loader dali --dali_device cpu --shuffle shards --shuffle_window 4", ""),
    ],
)
def test_a_flag_that_another_one_makes_idle_is_warned_of(words: str, warning: str) -> None:
    resolved = parse(Pretrain, ["imagenet", "resnet18", *words.split()])
    idle = [text for text in banner_warnings(resolved, PLANNED) if "no effect" in text]
    assert len(idle) == bool(warning)
    assert warning in " ".join(idle)


def test_an_evaluation_has_a_short_banner_too() -> None:
    words = f"imagenet resnet50 {LONG} --pretrained_feature_extractor weights.pth"
    assert len(lines_of(words, weights=WEIGHTS)) <= LINES


@pytest.mark.parametrize("program", ["main_contrastive.py", "main_linear.py"])
def test_the_help_begins_with_the_data_set_the_encoder_and_ten_flags(program: str, run: Run) -> None:
    code, out, _ = run(program, "digits", "resnet18", "--help")
    assert code == 0
    _, first, *_ = re.split(r"\n\n", out)
    most_used = MOST_USED[Linear if "linear" in program else Pretrain]
    named = [name for name in re.findall(r"^  (?:--)?(\w+)", first, flags=re.M) if name in most_used]
    assert named == list(most_used)
    assert len(most_used) == 2 + 10
    assert out.count("--batch_size INT") == 1


def test_torch_says_nothing_of_the_number_of_workers() -> None:
    """The banner does, by the cores that the process may use (tests/test_cores.py)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Deliveries([], [], workers=10_000)
