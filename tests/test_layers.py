"""A module imports its own layer and lower ones only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cl.config.methods import METHODS
from tests.conftest import ROOT

LAYERS = [  # low to high, as in the design
    {"errors", "machine"},
    {"config", "batch"},
    {"distributed"},
    {"losses", "optim", "nn"},
    {"data", "backbones"},
    {"evaluation"},
    {"methods"},
    {"run"},
    {"selfcheck", "report", "report_page", "embed", "worth"},
    {"pretrain", "linear"},
    {"commands"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
FILES = sorted((ROOT / "cl").rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports, and whether at its top level."""
    tree = ast.parse(file.read_text())
    top_level = set(map(id, tree.body))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: a relative import hides its layer"
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                (f"{node.module}.{name.name}" if node.module == "cl" else node.module, id(node) in top_level)
                for name in node.names
            )
        if isinstance(node, ast.Import):
            yield from ((name.name, id(node) in top_level) for name in node.names)


def part(file: Path) -> str:
    return file.relative_to(ROOT / "cl").with_suffix("").parts[0]


def imported_parts(file: Path) -> set[str]:
    """The parts of `cl` that a file imports."""
    return {name.split(".")[1] for name, _ in imports(file) if name.startswith("cl.")}


@pytest.mark.parametrize("file", [f for f in FILES if part(f) in HEIGHT], ids=lambda f: str(f.relative_to(ROOT)))
def test_a_module_imports_no_higher_layer(file: Path) -> None:
    for name in imported_parts(file) - {"cli"}:
        assert name in HEIGHT, f"{file} imports cl.{name}, which is in no layer"
        assert HEIGHT[name] <= HEIGHT[part(file)], f"{file} imports cl.{name} from a higher layer"


def test_cli_imports_config_errors_and_machine_only() -> None:
    assert imported_parts(ROOT / "cl/cli.py") == {"config", "errors", "machine"}


def test_only_the_run_layer_and_the_programs_import_cli() -> None:
    programs = {file for file in FILES if '__name__ == "__main__"' in file.read_text()} | {ROOT / "cl/commands.py"}
    assert {part(file) for file in FILES if "cli" in imported_parts(file) and file not in programs} <= {"run"}


def test_data_and_methods_never_import_each_other() -> None:
    for file in FILES:
        other = {"data": "methods", "methods": "data"}.get(part(file), "")
        assert other not in imported_parts(file), f"{file} imports cl.{other}"


def test_config_imports_the_standard_library_only() -> None:
    for file in FILES:
        if part(file) in ("config", "errors", "machine", "cli"):
            assert {name.split(".")[0] for name, _ in imports(file)} <= sys.stdlib_module_names | {"cl"}, file


@pytest.mark.parametrize(
    ("package", "allowed"), [("torch.distributed", {"distributed"}), ("nvidia", {"data/executors/dali"})]
)
def test_a_restricted_package_is_imported_by_one_module(package: str, allowed: set[str]) -> None:
    users = {f for f in FILES if any(name == package or name.startswith(package + ".") for name, _ in imports(f))}
    assert {str(f.relative_to(ROOT / "cl").with_suffix("")) for f in users} <= allowed


@pytest.mark.parametrize(
    "optional", ["wandb", "nvidia", "timm", "sklearn", "matplotlib", "plotly", "jinja2", "tensorboard"]
)
def test_optional_packages_are_not_imported_at_the_top_of_a_module(optional: str) -> None:
    for file in FILES:
        assert not any(name.split(".")[0] == optional and top_level for name, top_level in imports(file)), file


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_folder_holds_at_most_twelve_modules(folder: Path) -> None:
    """Method files are not counted: there is one per method."""
    uncounted = set(METHODS) if folder.name == "methods" else set()
    modules = [file.name for file in folder.glob("*.py") if file.stem not in uncounted]
    assert len(modules) <= 12, modules


def test_files_and_functions_of_the_package_are_short() -> None:
    """`main` of the two programs is longer: it is the stages of a run, in their order (80 lines: test_package.py)."""
    stages = {"cl/pretrain.py:main", "cl/linear.py:main"}
    for file in FILES:
        text = file.read_text()
        name = str(file.relative_to(ROOT))
        assert len(text.splitlines()) <= 320, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and f"{name}:{node.name}" not in stages:
                assert (node.end_lineno or 0) - node.lineno < 50, f"{name}: {node.name}"


def test_there_are_no_modules_for_miscellaneous_code() -> None:
    assert not {"utils.py", "misc.py", "helpers.py", "common.py"} & {file.name for file in FILES}
