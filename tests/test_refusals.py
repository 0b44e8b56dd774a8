"""A mistake gives one line on stderr that names the flag, exit code 2 and no traceback; nothing is written."""

import ast
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cl.config.flags import Config, Field, fields_of
from cl.config.methods import METHODS
from cl.config.programs import Linear, Pretrain, config_parts
from cl.errors import UserError
from tests.conftest import ROOT, Run
from tests.mistakes import BY_ARGV, BY_FILES, BY_MACHINE, DIGITS, LINEAR, PRETRAIN, RUN, write_given

REACHED: set[tuple[str, int]] = set()  # file and line of each UserError raised
CASES = BY_ARGV + BY_MACHINE + BY_FILES


@pytest.fixture(autouse=True)
def _record_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: UserError, *args: object) -> None:
        caller = sys._getframe(1)
        REACHED.add((str(Path(caller.f_code.co_filename).resolve().relative_to(ROOT)), caller.f_lineno))
        super(UserError, self).__init__(*args)

    monkeypatch.setattr(UserError, "__init__", record)


@pytest.fixture(scope="module")
def given_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_given(folder)
    return folder


def contents(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Every file with its size and the time of its last change."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


def assert_refused(result: tuple[int, str, str], expected: list[str], folder: Path) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for text in expected:
        assert text in err
    assert list(folder.iterdir()) == []


def case_id(case: object) -> str:
    return " ".join(case)[-60:] if isinstance(case, list) else str(case)


@pytest.mark.parametrize(("program", "flags", "expected"), CASES, ids=case_id)
def test_a_mistake_prints_one_line_and_writes_nothing(
    program: str, flags: list[str], expected: list[str], run: Run, folder: Path, given_files: Path
) -> None:
    if torch.cuda.is_available() and "no GPU" in expected:
        pytest.skip("this machine has a GPU")
    before = contents(given_files)
    assert_refused(run(program, *(word.replace("GIVEN", str(given_files)) for word in flags)), expected, folder)
    assert contents(given_files) == before


def invalid_values(declared: Field) -> Iterator[str]:
    """Values out of the range or choices of a flag."""
    flag = declared.flag
    if flag.choices or declared.kind is str:
        yield "nothing of the kind" if flag.choices else ""
        return
    yield from ("x", "nan", "inf", "-inf")
    yield from (str(bound) for bound in (flag.low - 1, flag.above, flag.high + 1) if math.isfinite(bound))


PARTS = {
    part: method
    for method in (*METHODS, None)
    for part in config_parts(Pretrain if method else Linear, method).values()
}


@pytest.mark.parametrize("part", PARTS)
def test_every_range_and_choice_is_enforced(part: type[Config], run: Run, folder: Path) -> None:
    method = PARTS[part]
    program, typed = (PRETRAIN, [*DIGITS, "--method", method]) if method else (LINEAR, [*DIGITS, *RUN])
    for declared in fields_of(part):
        if declared.kind is bool or declared.flag.positional:  # covered by the cases
            continue
        for value in invalid_values(declared):
            expected = [f"error: --{declared.name}: got ", f", expected {declared.expected}"]
            assert_refused(run(program, *typed, f"--{declared.name}={value}"), expected, folder)


def test_mistakes_visible_in_argv_are_refused_without_importing_torch(tmp_path: Path) -> None:
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
    assert_refused((done.returncode, done.stdout, done.stderr), ["did you mean --temperature?"], tmp_path)


def test_missing_gpus_are_refused_with_an_explanation(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert_refused(
        run(PRETRAIN, *DIGITS, "--gpus", "2"), ["--gpus: got 2", "not a count; for two GPUs: --devices 2"], folder
    )
    assert_refused(run(PRETRAIN, *DIGITS, "--gpus", "0", "0"), ["--gpus: got 0 0, expected each index once"], folder)
    assert_refused(run(PRETRAIN, *DIGITS, "--devices", "2"), ["--devices: got 2", "at most the 1 GPU"], folder)
    assert_refused(
        run(PRETRAIN, *DIGITS, "--precision", "64"), ["--precision: got 64 on a GPU", "--accelerator"], folder
    )


def test_a_cache_without_a_folder_for_it_is_refused(
    run: Run, folder: Path, given_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/no/such/folder")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    for name in ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(given_files))
    flags = ["custom", "resnet18", "--crop_size", "16", "--batch_size", "2", "--train_dir", str(given_files / "train")]
    assert_refused(run(PRETRAIN, *flags, "--cache", "raw256"), ["--cache_dir: not given", "no home folder"], folder)
    assert_refused(run(PRETRAIN, *DIGITS, "--output_dir=~/x"), ["--output_dir: got ~/x", "no home folder"], folder)


def test_a_launcher_with_a_different_number_of_processes_is_refused(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(variable, value)
    flags = [*DIGITS, "--devices", "2", "--accelerator", "cpu"]
    assert_refused(run(PRETRAIN, *flags), ["--devices: got 2 on 1 node, expected the 3 processes"], folder)


REACHED_ELSEWHERE = {  # modules with refusals that the cases here do not reach, and the tests that do
    "cl/backbones/timm.py": "test_timm", "cl/backbones/loading.py": "test_weights",
    "cl/config/methods/base.py": "test_flags", "cl/data/executors/dali.py": "test_loader",
    "cl/data/decoding/multichannel.py": "test_multichannel", "cl/data/sources/archives.py": "test_archives",
    "cl/data/check.py": "test_images",
    "cl/data/imagenet100.py": "test_archives", "cl/data/imagenet_val.py": "test_archives",
    "cl/data/datamodule.py": "test_kernels", "cl/data/executors/resident_images.py": "test_kernels",
    "cl/data/sources/packed/shards.py": "test_shards", "cl/data/sources/packed/tables.py": "test_tables",
    "cl/data/sources/packed/table_files.py": "test_tables", "cl/data/sources/packed/remote.py": "test_remote_shards",
    "cl/data/shard/__main__.py": "test_shard_writer", "cl/data/shard/writer.py": "test_shard_writer",
    "cl/data/sources/manifest.py": "test_outages", "cl/data/sources/registry.py": "test_ranks",
    "cl/embed.py": "test_embed", "cl/report.py": "test_report", "cl/report_page/runs.py": "test_report",
    "cl/report_page/page.py": "test_report_page", "cl/report_page/serve.py": "test_report_serve",
    "cl/run/start/batch_search.py": "test_dry_run", "cl/run/start/dry_run.py": "test_dry_run",
    "cl/run/folder/same_run.py": "test_elastic",
    "cl/run/start/network.py": "test_graphs", "cl/run/train/teaching.py": "test_distill",
    "cl/run/weights/load.py": "test_export", "cl/run/start/seeds.py": "test_seeds",
    "cl/worth/images.py": "test_worth", "cl/worth/networks.py": "test_worth", "cl/worth/runs.py": "test_worth",
    "cl/selfcheck.py": "test_home", "cl/distributed.py": "test_launchers",
    "cl/machine/completion.py": "test_package",
    "cl/machine/launcher.py": "test_launchers", "cl/run/start/processes.py": "test_launchers",
}  # fmt: skip


def raised_in(file: Path) -> Iterator[range]:
    """The lines of each `raise UserError(...)`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc).startswith("UserError("):
            yield range(node.lineno, (node.end_lineno or node.lineno) + 1)


def test_every_refusal_of_the_programs_is_reached_by_a_test_above(request: pytest.FixtureRequest) -> None:
    if sum(item.path == Path(__file__) for item in request.session.items) < len(CASES):
        pytest.skip("not all cases were run")
    files = {str(file.relative_to(ROOT)): file for file in (*ROOT.glob("cl/**/*.py"), *ROOT.glob("main_*.py"))}
    missed = {(path, lines[0]) for path, file in files.items() for lines in raised_in(file)
              if not any((path, n) in REACHED for n in lines)}  # fmt: skip
    assert sorted(f"{path}:{line}" for path, line in missed if path not in REACHED_ELSEWHERE) == []
    assert {path for path, _ in missed} == REACHED_ELSEWHERE.keys()  # no superfluous entry
    assert all((ROOT / f"tests/{test}.py").is_file() for test in REACHED_ELSEWHERE.values())
