"""Every script in bash_files/ passes valid flags to its program, and flags typed after it override them."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from cl.cli import parse
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain
from tests.conftest import ROOT, Run
from tests.mistakes import SEED_LINEAR, SEED_PRETRAIN
from tests.pictures import write_classes
from tests.teachers import teacher

FOLDER = ROOT / "bash_files"
LAUNCHERS = [FOLDER / "slurm.sbatch", FOLDER / "torchrun.sh"]
RECIPES = sorted(set(FOLDER.rglob("*.sh")) - set(LAUNCHERS))
ARGUMENTS = {"adapt": ["photos", "resnet18", "torchvision"]}  # of scripts that take some before the flags
PRETRAIN, EVALUATE = ([s for s in RECIPES if kind in s.parts] for kind in ("pretrain", "linear"))

TABLE = {  # docs/recipes.md: script of pretrain/ -> backbone, data, epochs, batch, T, head, multi-crop, DALI
    cells[0].strip("`").removeprefix("pretrain/").removesuffix(".sh"): cells[1:9]
    for line in (ROOT / "docs/recipes.md").read_text().splitlines()
    if line.startswith("| `pretrain/imagenet")
    for cells in [[cell.strip() for cell in line.split("|")[1:-1]]]
}
NAMES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "timm/vit_small_patch16_224": "ViT-S/16",
    "imagenet100": "ImageNet-100",
    "imagenet": "ImageNet",
}


def name_of(script: Path) -> str:
    return str(script.relative_to(FOLDER).with_suffix(""))


def captured_command(folder: Path, *command: str) -> list[str]:
    """The command that a script runs, printed by a stand-in for python3; stand-ins for launchers run their command."""
    stand_ins = {
        "python3": 'printf "%s\\0" "$@"',
        "srun": 'exec "$@"',
        "torchrun": 'while [ "$1" != --no-python ]; do shift; done; shift; exec "$@"',
    }
    (folder / "bin").mkdir(exist_ok=True)
    for name, body in stand_ins.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("script", RECIPES, ids=name_of)
def test_a_script_works_from_any_folder_and_takes_flags_at_its_end(script: Path, tmp_path: Path) -> None:
    typed = [*ARGUMENTS.get(name_of(script), []), "--epochs", "3", "--devices", "1", "--accelerator", "cpu"]
    program, *argv = captured_command(tmp_path, str(script), *typed)
    assert (tmp_path / program).exists()
    config = parse(Pretrain if program.endswith("main_contrastive.py") else Linear, argv).config
    assert (config.run.epochs, config.device.devices, config.device.gpus) == (3, 1, None)


@pytest.mark.parametrize("script", [*RECIPES, *LAUNCHERS], ids=name_of)
def test_a_script_stops_at_the_first_error(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith('"$@"')
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("row", TABLE)
def test_the_recipe_table_matches_the_scripts(row: str, tmp_path: Path) -> None:
    config = parse(Pretrain, captured_command(tmp_path, str(FOLDER / f"pretrain/{row}.sh"))[1:]).config
    method = vars(config.method)
    heads = [method[name] for name in ("proj_output_dim", "pred_hidden_dim") if name in method]
    folder, name = row.split("/")
    assert name.startswith(config.method.method)
    assert config.data.dataset == folder
    assert TABLE[row] == [
        NAMES[config.backbone.encoder],
        NAMES[config.data.dataset],
        str(config.run.epochs),
        str(config.data.batch_size * len(config.device.gpus or ())),
        str(method.get("temperature", "")),
        "/".join(map(str, heads)),
        "yes" if config.views.multicrop else "",
        "yes" if config.data.loader == "dali" else "",
    ]


def test_the_recipe_table_has_all_scripts_for_large_data_sets() -> None:
    scripts = [*FOLDER.glob("pretrain/imagenet100/*.sh"), *FOLDER.glob("pretrain/imagenet/*.sh")]
    assert set(TABLE) == {f"{script.parent.name}/{script.stem}" for script in scripts}


def test_each_method_has_scripts_for_the_small_data_sets_and_their_evaluation() -> None:
    methods = sorted(METHODS)
    for kind, datasets in (("pretrain", ("cifar10", "cifar100")), ("linear", ("cifar10", "cifar100", "imagenet100"))):
        for dataset in datasets:
            assert [path.stem for path in sorted((FOLDER / kind / dataset).iterdir())] == methods
    evaluated = {script.parent.name for script in EVALUATE}
    assert {script.parent.name for script in PRETRAIN} <= evaluated


@pytest.mark.parametrize("parts", [(), ("train",), ("train", "val"), ("val",)], ids=" ".join)
def test_weights_are_adapted_to_a_folder_with_or_without_parts(parts: tuple[str, ...], tmp_path: Path) -> None:
    for part in ("", *parts):
        (tmp_path / "my photos" / part).mkdir()
    adapted = captured_command(tmp_path, str(FOLDER / "adapt.sh"), "my photos", "timm/test_vit", "w.pth")[1:]
    config = parse(Pretrain, adapted).config
    train = "my photos/train" if "train" in parts else "my photos"
    val = "my photos/val" if "train" in parts and "val" in parts else None
    assert (config.data.dataset, config.data.train_dir, config.data.val_dir) == ("custom", train, val)
    assert (config.backbone.encoder, config.backbone.init_from) == ("timm/test_vit", "w.pth")


def test_a_missing_argument_is_named(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(FOLDER / "adapt.sh"), "photos"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip().endswith("expected: adapt.sh FOLDER ENCODER WEIGHTS")


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_a_launcher_starts_a_recipe_on_its_nodes(
    launcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
    for name, value in ({"NODES": "2", "GPUS": "4"} | job).items():
        monkeypatch.setenv(name, value)
    recipe = FOLDER / "pretrain/imagenet100/simclr.sh"
    config = parse(Pretrain, captured_command(tmp_path, str(launcher), str(recipe), "--batch_size", "32")[1:]).config
    assert (config.device.num_nodes, config.device.devices, config.device.gpus) == (2, 4, None)
    assert config.data.batch_size == 32


def test_the_two_original_scripts_run_the_commands_that_users_know(tmp_path: Path) -> None:
    assert captured_command(tmp_path, str(FOLDER / "run_contrastive.sh"))[1:] == SEED_PRETRAIN
    assert captured_command(tmp_path, str(FOLDER / "run_linear.sh"))[1:] == SEED_LINEAR


def test_a_script_starts_its_program_and_returns_its_exit_code(tmp_path: Path) -> None:
    command = shlex.split(f"bash {ROOT}/bash_files/run_contrastive.sh --data_folder /nowhere --devices 1")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --data_folder: got /nowhere")


@pytest.mark.parametrize("script", [*RECIPES, FOLDER / "torchrun.sh"], ids=name_of)
def test_a_script_replaces_itself_with_its_program(script: Path) -> None:
    assert re.search(r"^exec (python3|torchrun) ", script.read_text(), re.MULTILINE)


def test_a_signal_to_a_task_leaves_the_program_time_to_save(tmp_path: Path) -> None:
    """SLURM sends SIGUSR1 to the recipe, too: a waiting bash would die of it and end the task."""
    program = tmp_path / "python3"
    program.write_text("#!/bin/sh\ntrap 'exit 75' USR1\necho ready\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(FOLDER / "run_contrastive.sh")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as task:
        assert task.stdout
        assert task.stdout.readline() == "ready\n"
        os.killpg(task.pid, signal.SIGUSR1)
        assert task.wait(10) == 75


SMALL = ["--data_folder", ".", "--train_dir", "train", "--val_dir", "val", "--batch_size", "4", "--num_workers", "0"]
SMALL += ["--devices", "1", "--accelerator", "cpu", "--fast_dev_run"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_script_runs_on_small_folders(run: Run, folder: Path) -> None:
    """One batch of each recipe, with its own image size and a narrow backbone; then the evaluation of the last run."""
    write_classes(folder / "train", {"cat": 6, "dog": 6})
    write_classes(folder / "val", {"cat": 3, "dog": 3})
    for dataset in sorted({script.parent.name for script in PRETRAIN}):
        for script in [script for script in PRETRAIN if script.parent.name == dataset]:
            narrow = ["--width", "4"] if "vit" not in script.stem else []
            local = ["--distill_from", str(teacher())] if script.stem == "distill" else []  # nothing is downloaded
            _, *argv = captured_command(folder, str(script), *SMALL, *narrow, *local)
            assert run("main_contrastive.py", *argv)[::2] == (0, ""), name_of(script)
        for script in [script for script in EVALUATE if script.parent.name == dataset]:
            _, *argv = captured_command(folder, str(script), *SMALL)
            assert run("main_linear.py", *argv)[::2] == (0, ""), name_of(script)
