"""A mistake is one line on stderr that names the flag, exit code 2, no traceback, nothing written."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cl.cli import parse
from cl.config.programs import Linear, Pretrain
from cl.errors import UserError
from cl.run.folder import _write_config
from tests.conftest import ROOT, Run
from tests.pictures import plain, write_classes

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
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--lr", "1", "--scheduler", "reduce"], ["got reduce"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "2"], ["--in_channels: got 2", "1 or 3"]),
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


CUSTOM = ["custom", "resnet18", "--crop_size", "16", "--train_dir"]
BY_FILES = [  # GIVEN is the folder that `given` makes
    (PRETRAIN, [*CUSTOM, "GIVEN/empty"], ["--train_dir", "it is empty"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/page.ckpt"], ["--train_dir", "expected a folder; there is a file"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/pipe"], ["--train_dir", "expected a folder"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/dangling"], ["--train_dir", "expected a folder"]),
    (PRETRAIN, [*CUSTOM, "t", "--data_folder", "GIVEN/empty"], ["--data_folder", "it is empty"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/no_images"], ["--train_dir", "there are none"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/no_images_in_classes"], ["--train_dir", "in its 1 class folders; there are none"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/bad"], ["--train_dir", "none of its files does"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "GIVEN/other"], ["--val_dir", "with class z"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "GIVEN/nowhere"], ["--val_dir", "nothing at that path"]),
    (
        PRETRAIN,
        [*CUSTOM, "GIVEN/half_bad", "--bad_images", "error"],
        ["--bad_images: got error", "0.jpg", "not an image"],
    ),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--labels", "GIVEN/nowhere.csv"], ["--labels", "there is no"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--labels", "GIVEN/pipe"], ["--labels", "expected a CSV file"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--labels", "GIVEN/one_column.csv"], ["--labels", "two columns"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--labels", "GIVEN/others.csv"], ["--labels", "it has none of them"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--labels", "GIVEN/empty.csv"], ["--labels"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--labels", "GIVEN/bytes.csv"], ["--labels"]),
    (
        LINEAR,
        [*CUSTOM, "GIVEN/flat", "--pretrained_feature_extractor", "GIVEN/page.ckpt"],
        ["cannot be read as weights"],
    ),
    (PRETRAIN, [*DIGITS, "--init_from", "x" * 300], ["--init_from: got xxx", "which cannot be looked up"]),
    (PRETRAIN, [*DIGITS, "--run_id", ".hidden"], ["--run_id: got .hidden"]),
    (PRETRAIN, [*DIGITS, "--run_id", "..", "--resume_training_from", "auto"], ["--run_id: got .."]),
    (PRETRAIN, [*DIGITS, "--name", "m\u00fcll"], ["--name: got m\u00fcll"]),
    (PRETRAIN, [*DIGITS, "--name", ""], ["--name: got "]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "auto"], ["got auto, expected --run_id"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/nowhere"], ["expected a run folder with a last.ckpt"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/empty"], ["expected a run folder with a last.ckpt"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "x" * 300], ["which cannot be looked up"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/page.ckpt"], ["config.json cannot be read"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/run_of_linear"], ["a run of another program or version"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/run", "--lr", "7"], ["--lr: got 7, expected 0.001"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/run", "--run_id", "x"], ["--run_id: got x with"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "GIVEN/run"], ["expected a checkpoint to go on from", "not whole"]),
]
WEIGHTS = {  # files that are no checkpoint, or another program's
    "empty.ckpt": b"", "text.ckpt": b"not a checkpoint", "page.ckpt": b"<html></html>",
    "zip.ckpt": b"PK\x03\x04 truncated", "table.ckpt": b"epoch,step,loss\n1,2,3\n", "error.ckpt": b"error: x\n",
}  # fmt: skip
for file in (*WEIGHTS, "truncated.ckpt", "code.ckpt", "pipe", "dangling", "empty"):
    BY_FILES += [
        (
            LINEAR,
            [*DIGITS, "--pretrained_feature_extractor", f"GIVEN/{file}"],
            ["--pretrained_feature_extractor: got "],
        ),
        (PRETRAIN, [*DIGITS, "--init_from", f"GIVEN/{file}"], ["--init_from: got "]),
        (PRETRAIN, [*DIGITS, "--resume_training_from", f"GIVEN/{file}"], ["--resume_training_from: got "]),
    ]

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
    "facts_of_another_kind": {"cl": 1, "state_dict": {}},
    "no_norm": {"cl": FACTS | {"norm": None}, "state_dict": {}},
    "no_size": {"cl": FACTS | {"config": {}}, "state_dict": {}},
    "unknown_field": {"cl": FACTS | {"config": FACTS["config"] | {"backbone": {"new": 1}}}, "state_dict": {}},  # type: ignore[operator]
    "later_schema": {"cl": FACTS | {"schema": 99}, "state_dict": {}},
    "of_linear": {"cl": FACTS | {"program": "Linear"}, "state_dict": {}},
}
for file in OTHERS:
    BY_FILES.append((LINEAR, [*DIGITS, "--pretrained_feature_extractor", f"GIVEN/{file}.pth"], ["is no checkpoint"]))


class Runs:
    """What a hostile pickle would do."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("it_ran"),)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders that nobody can work with, and a few good ones."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("empty", "no_images", "no_images_in_classes/a", "bad", "half_bad", "run", "run_of_linear"):
        (folder / name).mkdir(parents=True)
    (folder / "no_images/notes.txt").write_text("none")
    for name in ("bad", "half_bad"):
        (folder / name / "0.jpg").write_bytes(b"\xff\xd8\xff damaged")
    plain(3).save(folder / "half_bad/1.jpg")
    write_classes(folder / "train", {"a": 2, "b": 2})
    write_classes(folder / "other", {"a": 2, "z": 2})
    (folder / "flat").mkdir()
    plain(3).save(folder / "flat/1.jpg")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to(folder / "nowhere")
    texts = {"one_column": b"1.jpg\n", "others": b"2.jpg,a\n", "empty": b"", "bytes": b"\xff\xfe\x00,\x00\n"}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_bytes(text)
    for name, content in WEIGHTS.items():
        (folder / name).write_bytes(content)
    torch.save({"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, folder / "truncated.ckpt")
    whole = (folder / "truncated.ckpt").read_bytes()
    (folder / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": Runs()}, folder / "code.ckpt")
    for name, content in OTHERS.items():
        torch.save(content, folder / f"{name}.pth")
    for name, program, flags in (("run", Pretrain, DIGITS), ("run_of_linear", Linear, [*DIGITS, *RUN])):
        (folder / name / "last.ckpt").write_bytes(b"half")
        _write_config(folder / name, parse(program, flags))
    return folder


@pytest.mark.parametrize(("program", "flags", "says"), BY_FILES, ids=name)
def test_files_that_nobody_can_work_with_are_refused(
    program: str, flags: list[str], says: list[str], run: Run, folder: Path, given: Path
) -> None:
    before = sorted(given.rglob("*"))
    refused(run(program, *(word.replace("GIVEN", str(given)) for word in flags)), says, folder)
    assert sorted(given.rglob("*")) == before


REACHED: set[tuple[str, int]] = set()  # where the cases above were refused: file and line
ELSEWHERE = {"cl/config/methods.py"}  # no command line says it: tests/test_flags.py


@pytest.fixture(autouse=True)
def _note_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(self: UserError, *args: object) -> None:
        caller = sys._getframe(1)
        REACHED.add((str(Path(caller.f_code.co_filename).resolve().relative_to(ROOT)), caller.f_lineno))
        super(UserError, self).__init__(*args)

    monkeypatch.setattr(UserError, "__init__", noted)


def test_an_output_folder_that_cannot_be_made_is_refused(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("given") / "file"
    file.write_text("in the way")
    code, _, err = run(PRETRAIN, *DIGITS, "--output_dir", str(file))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: --output_dir")


def test_every_check_of_flags_folders_and_files_is_reached_by_a_case_above(request: pytest.FixtureRequest) -> None:
    if len(request.session.items) < len(BY_ARGV + BY_MACHINE + BY_FILES):
        pytest.skip("the cases were not run")
    files = [*ROOT.glob("cl/config/*.py"), ROOT / "cl/data/folders.py", ROOT / "cl/backbones/read.py"]
    missed = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            place, lines = str(file.relative_to(ROOT)), range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if (
                place not in ELSEWHERE
                and "UserError" in ast.unparse(node)
                and not any((place, n) in REACHED for n in lines)
            ):
                missed.append(f"{place}:{node.lineno}")
    assert missed == []
