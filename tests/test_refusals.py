"""A mistake is one line on stderr that names the flag, exit code 2, no traceback, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, Run

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
DIGITS = ["digits", "resnet18"]
FOLDERS = "--data_folder /datasets --train_dir imagenet-100/train --val_dir imagenet-100/test"
SEED_PRETRAIN = (
    f"imagenet100 resnet18 {FOLDERS} --epochs 100 --optimizer sgd --scheduler warmup_cosine --lr 0.3 "
    "--weight_decay 1e-4 --batch_size 128 --temperature 0.2 --gpus 0 1 --num_workers 8 --hidden_mlp 2048 "
    "--name simclr --project contrastive_learning"
).split()
SEED_LINEAR = (
    f"imagenet100 resnet18 {FOLDERS} --epochs 100 --optimizer sgd --scheduler step --lr 0.1 --lr_decay_steps 60 80 "
    "--weight_decay 0 --batch_size 128 --gpus 0 1 --num_workers 10 --name simclr-linear-eval "
    "--pretrained_feature_extractor trained_models/RUN_ID --project contrastive_learning"
).split()
RUN = ["--pretrained_feature_extractor", "run"]

BY_ARGV = [  # program, flags, what the line must say
    (PRETRAIN, [], ["dataset and encoder: not given"]),
    (PRETRAIN, ["digits"], ["encoder: not given"]),
    (LINEAR, ["digits"], ["encoder: not given"]),
    (PRETRAIN, ["digit", "resnet18"], ["dataset: got digit", "digits"]),
    (PRETRAIN, ["digits", "resnet19"], ["encoder: got resnet19", "resnet18"]),
    (PRETRAIN, ["digits", "resnet18", "resnet50"], ["resnet50"]),
    (PRETRAIN, [*DIGITS, "--optimizer", "sdg"], ["--optimizer: got sdg", "sgd, adam, adamw"]),
    (PRETRAIN, [*DIGITS, "--method", "simclrr"], ["--method: got simclrr", "did you mean simclr?"]),
    (PRETRAIN, [*DIGITS, "--temprature", "0.2"], ["--temprature", "did you mean --temperature?"]),
    (PRETRAIN, ["--temprature", "0.2", *DIGITS], ["--temprature", "did you mean --temperature?"]),
    (PRETRAIN, [*DIGITS, "--temprature=0.2"], ["--temprature", "did you mean --temperature?"]),
    (PRETRAIN, [*DIGITS, "--temp", "0.2"], ["--temp:", "did you mean --temperature?"]),
    (PRETRAIN, [*DIGITS, "-lr", "0.2"], ["-lr: no such flag, did you mean --lr?"]),
    (PRETRAIN, [*DIGITS, "--lamb", "0.1"], ["--lamb", "--method barlow_twins"]),
    (PRETRAIN, [*DIGITS, "--method", "barlow_twins", "--temperature", "0.1"], ["--temperature", "simclr"]),
    (PRETRAIN, [*DIGITS, "--method", "simsiam", "--supervised"], ["--supervised"]),
    (PRETRAIN, [*DIGITS, "--temperature", "0"], ["--temperature: got 0", "above 0"]),
    (PRETRAIN, [*DIGITS, "--temperature", "nan"], ["--temperature: got nan"]),
    (PRETRAIN, [*DIGITS, "--lr", "inf"], ["--lr: got inf"]),
    (PRETRAIN, [*DIGITS, "--lr", "fast"], ["--lr: got fast", "a number"]),
    (PRETRAIN, [*DIGITS, "--lr"], ["--lr", "expected one argument"]),
    (PRETRAIN, [*DIGITS, "--lr", "-1e-3"], ["--lr: got -0.001", "at least 0"]),
    (PRETRAIN, [*DIGITS, "--seed", "99999999999"], ["--seed: got 99999999999", "at most 2147483647"]),
    (PRETRAIN, [*DIGITS, "--width", "1000000"], ["--width: got 1000000", "at most 4096"]),
    (PRETRAIN, ["digits", "timm/resnet18", "--width", "64"], ["--width: got it with timm/resnet18", "resnet50 only"]),
    (PRETRAIN, ["digits", "timm/resnet18", "--stem", "auto"], ["--stem: got it with timm/resnet18"]),
    (PRETRAIN, ["digits", "timm/vit_small", "--no_zero_init_residual"], ["--zero_init_residual: got it with timm/vit"]),
    (PRETRAIN, [*DIGITS, "--run_id", "x" * 300], ["--run_id: got xxx", "at most 100"]),
    (PRETRAIN, ["cifar10", "resnet18", "--labels", "l.csv"], ["--labels: got l.csv without --train_dir"]),
    (PRETRAIN, ["custom", "resnet18", "--train_dir", "x" * 300], ["--train_dir: got xxx", "can be read"]),
    (PRETRAIN, ["--gpus", "0", "1", *DIGITS], ["dataset and encoder: not given, expected before the flags"]),
    (PRETRAIN, [*DIGITS, "--batch_size", "1"], ["--batch_size: got 1", "at least 2"]),
    (PRETRAIN, [*DIGITS, "--batch_size", "auto"], ["--batch_size: got auto", "--dry_run"]),
    (PRETRAIN, [*DIGITS, "--seeds", "0", "1", "--seed", "2"], ["--seed: got 2 with --seeds 0 1"]),
    (PRETRAIN, [*DIGITS, "--seeds", "0", "1", "--run_id", "x"], ["--run_id: got x with --seeds"]),
    (PRETRAIN, [*DIGITS, "--seeds", "0", "--resume_training_from", "x"], ["--resume_training_from: got x"]),
    (LINEAR, [*DIGITS, *RUN, "--seeds", "0", "0"], ["--seeds: got 0 0", "each seed once"]),
    (PRETRAIN, [*DIGITS, "--epochs", "1.5"], ["--epochs: got 1.5", "an integer"]),
    (PRETRAIN, [*DIGITS, "--scheduler", "step"], ["--scheduler", "--lr_decay_steps"]),
    (PRETRAIN, [*DIGITS, "--min_lr", "1"], ["--min_lr: got 1", "--lr"]),
    (PRETRAIN, [*DIGITS, "--gpus", "0", "--accelerator", "cpu"], ["--gpus: got 0", "--accelerator cpu"]),
    (PRETRAIN, [*DIGITS, "--gpus", "zero"], ["--gpus: got zero"]),
    (PRETRAIN, [*DIGITS, "--gpus", "-1"], ["--gpus: got -1"]),
    (PRETRAIN, [*DIGITS, "--name", "../elsewhere"], ["--name: got ../elsewhere"]),
    (PRETRAIN, [*DIGITS, "--run_id", "a/b"], ["--run_id: got a/b"]),
    (PRETRAIN, [*DIGITS, "--run_id", "latest"], ["--run_id: got latest"]),
    (PRETRAIN, [*DIGITS, "--gaussian_prob", "0.5"], ["--gaussian_prob: got 0.5", "views of 8 pixels"]),
    (PRETRAIN, [*DIGITS, "--train_dir", "x"], ["--train_dir: got x", "digits"]),
    (LINEAR, DIGITS, ["--pretrained_feature_extractor: not given"]),
    (LINEAR, [*DIGITS, "--pretrained_feature_extracto", "x"], ["did you mean --pretrained_feature_extractor?"]),
    (LINEAR, [*DIGITS, *RUN, "--temperature", "0.1"], ["--temperature: no such flag"]),
    (LINEAR, [*DIGITS, *RUN, "--width", "16"], ["--width: no such flag"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "fast"], ["--protocol: got fast", "standard, cached"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--finetune"], ["--finetune: got it with --protocol cached"]),
    (LINEAR, [*DIGITS, *RUN, "--few_shot", "--finetune"], ["--few_shot: got it with --finetune"]),
    (LINEAR, [*DIGITS, *RUN, "--finetune", "--lr", "1", "2"], ["--finetune: got it with 2 pairs", "one --lr"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--optimizer", "adam"], ["--optimizer: got adam", "sgd"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "1", "2", "--scheduler", "reduce"], ["--scheduler: got reduce with several"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "1", "2", "--min_lr", "0.1"], ["--min_lr: got 0.1 with several pairs"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "0.1", "-1"], ["--lr: got 0.1 -1", "a number or several at least 0"]),
    (LINEAR, [*DIGITS, *RUN, "--label_fraction", "10"], ["--label_fraction: got 10", "at most 1"]),
    (PRETRAIN, SEED_PRETRAIN, ["--data_folder: got /datasets", "nothing at that path"]),
    (LINEAR, SEED_LINEAR, ["--data_folder: got /datasets", "nothing at that path"]),
    (PRETRAIN, ["imagenet100", "resnet18"], ["--train_dir: not given"]),
    (PRETRAIN, ["custom", "resnet18", "--train_dir", "missing"], ["--train_dir: got missing", "nothing at that path"]),
]  # fmt: skip

BY_MACHINE = [
    (PRETRAIN, [*DIGITS, "--gpus", "0"], ["--gpus: got 0", "no GPU", "--devices 1 --accelerator cpu"]),
    (PRETRAIN, [*DIGITS, "--accelerator", "gpu"], ["--accelerator: got gpu", "no GPU"]),
    (PRETRAIN, [*DIGITS, "--batch_size", "1438"], ["--batch_size: got 1438", "1437 training images"]),
    (PRETRAIN, [*DIGITS, "--warmup_epochs", "13"], ["--warmup_epochs: got 13"]),
    (PRETRAIN, [*DIGITS, "--num_nodes", "2", "--accelerator", "cpu"], ["--num_nodes: got 2", "torchrun.sh"]),
    (PRETRAIN, [*DIGITS, "--lars"], ["--lars: got it with --optimizer adamw", "expected --optimizer sgd"]),
    (PRETRAIN, [*DIGITS, "--small_scale", "0.1"], ["--small_scale: got 0.1", "two numbers"]),
    (PRETRAIN, [*DIGITS, "--small_scale", "0.2", "0.1"], ["--small_scale: got 0.2 0.1", "two numbers in order"]),
    (PRETRAIN, ["stl10", "resnet18", "--multicrop", "--small_crop_size", "12"], ["views of 12 pixels"]),
    (PRETRAIN, [*DIGITS, "--deterministic"], ["--deterministic: got True", "not available yet"]),
    (PRETRAIN, [*DIGITS, "--dali", "--dali_device", "gpu"], ["--dali_device: got gpu", "expected cpu"]),
    (PRETRAIN, ["digits", "timm/vit_tiny_patch16_244"], ["encoder: got timm/vit_tiny", "did you mean timm/vit_tiny"]),
    (PRETRAIN, ["digits", "timm/vit_tiny_patch16_224"], ["--crop_size: got views of 8 pixels", "patch size (16)"]),
    (LINEAR, ["digits", "timm/resnet19", *RUN], ["encoder: got timm/resnet19", "timm/resnet18"]),
    (PRETRAIN, [*DIGITS, "--init_from", "x"], ["--init_from: got x", "there is no x"]),
    (LINEAR, [*DIGITS, *RUN], ["--pretrained_feature_extractor: got run", "no run"]),
]  # fmt: skip


def refused(answer: tuple[int, str, str], says: list[str], folder: Path) -> None:
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for words in says:
        assert words in err
    assert list(folder.iterdir()) == []


def name(case: object) -> str:
    return " ".join(case)[-60:] if isinstance(case, list) else str(case)


@pytest.mark.parametrize(("program", "flags", "says"), BY_ARGV + BY_MACHINE, ids=name)
def test_a_mistake_is_one_line(program: str, flags: list[str], says: list[str], run: Run, folder: Path) -> None:
    if torch.cuda.is_available() and "no GPU" in says:
        pytest.skip("this machine has a GPU")
    refused(run(program, *flags), says, folder)


def test_what_argv_alone_decides_is_refused_without_importing_torch(tmp_path: Path) -> None:
    check = (
        "import sys, runpy, json\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from cl import cli\n"
        "import main_contrastive, main_linear\n"
        "programs = {'main_contrastive.py': main_contrastive.main, 'main_linear.py': main_linear.main}\n"
        "for program, flags in json.loads(sys.stdin.read()):\n"
        "    sys.argv = [program, *flags]\n"
        "    try: cli.run(programs[program])\n"
        "    except SystemExit as end: code = end.code\n"
        "    heavy = {'torch', 'torchvision', 'pytorch_lightning', 'numpy'} & set(sys.modules)\n"
        "    assert code == (0 if '--help' in flags else 2) and not heavy, (flags, code, heavy)\n"
    )
    import json

    helps = [(PRETRAIN, ["--help"]), (PRETRAIN, [*DIGITS, "--help"]), (LINEAR, ["digits", "resnet18", "-h", "--help"])]
    cases = json.dumps([*((program, flags) for program, flags, _ in BY_ARGV), *helps])
    done = subprocess.run([sys.executable, "-c", check], input=cases, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_command_itself_exits_with_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / PRETRAIN), *DIGITS, "--temprature", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    refused((done.returncode, done.stdout, done.stderr), ["did you mean --temperature?"], tmp_path)


def test_an_index_beyond_the_gpus_explains_itself(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refused(run(PRETRAIN, *DIGITS, "--gpus", "2"), ["--gpus: got 2", "indices; for two GPUs: --devices 2"], folder)
    refused(run(PRETRAIN, *DIGITS, "--devices", "2"), ["--devices: got 2", "at most the 1 GPU"], folder)


def test_an_empty_folder_is_refused(run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = str(tmp_path_factory.mktemp("empty"))
    refused(run(PRETRAIN, "custom", "resnet18", "--train_dir", empty), ["--train_dir", "it is empty"], folder)
    refused(run(PRETRAIN, "custom", "resnet18", "--data_folder", empty, "--train_dir", "t"), ["--data_folder"], folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"<html></html>", b"PK\x03\x04 truncated", b"epoch,step,loss\n1,2,3\n", b"error: x\n"],
)
def test_an_unreadable_checkpoint_is_refused(
    content: bytes, run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("given") / "last.ckpt"
    file.write_bytes(content)
    for given in (file, file.parent):
        answer = run(LINEAR, *DIGITS, "--pretrained_feature_extractor", str(given))
        refused(answer, ["--pretrained_feature_extractor", "cannot be read"], folder)


FACTS = {
    "schema": 1,
    "program": "Pretrain",
    "config": {
        "views": {"crop_size": 8},
        "data": {"in_channels": 3},
        "backbone": {"encoder": "resnet18"},
        "method": {"method": "simclr"},
    },
    "classes": ("a", "b"),
    "norm": ((0.5,) * 3, (0.5,) * 3),
}
OTHERS = {
    "facts of another kind": {"cl": 1, "state_dict": {}},
    "no norm": {"cl": FACTS | {"norm": None}, "state_dict": {}},
    "no size": {"cl": FACTS | {"config": {}}, "state_dict": {}},
    "unknown field": {"cl": FACTS | {"config": FACTS["config"] | {"backbone": {"new": 1}}}, "state_dict": {}},  # type: ignore[operator]
    "later schema": {"cl": FACTS | {"schema": 99}, "state_dict": {}},
    "main_linear's": {"cl": FACTS | {"program": "Linear"}, "state_dict": {}},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_checkpoint_of_something_else_is_refused(
    kind: str, run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("given") / "other.pth"
    torch.save(OTHERS[kind], file)
    refused(run(LINEAR, *DIGITS, "--pretrained_feature_extractor", str(file)), ["is no checkpoint"], folder)


def test_an_output_folder_that_cannot_be_made_is_refused(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("given") / "file"
    file.write_text("in the way")
    code, _, err = run(PRETRAIN, *DIGITS, "--output_dir", str(file))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: --output_dir")
