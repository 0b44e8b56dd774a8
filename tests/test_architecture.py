"""The tree in docs/architecture.md is complete, and the names and paths in its text exist."""

import re
from collections.abc import Iterator

from tests.conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
FULLY_LISTED = ("cl", "bench")  # folders in which every module has a line
SUPPORT = {path.name for path in (ROOT / "tests").glob("*.py") if not path.name.startswith(("test_", "__"))}


def tree_paths() -> Iterator[str]:
    """The paths of the tree."""
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.S)
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = [*folders[:depth], name.rstrip("/")]
        path = "/".join(folders)
        yield f"{path}/" if name.endswith("/") else path


def test_the_tree_lists_every_module_and_only_existing_paths() -> None:
    paths = list(tree_paths())
    assert len(paths) == len(set(paths))
    for path in paths:
        assert (ROOT / path).exists(), path
    for folder in FULLY_LISTED:
        files = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
        code = {path for path in files if not path.endswith("__init__.py") or has_code(path)}
        assert code - set(paths) == set(), "not in docs/architecture.md"
    assert {f"tests/{name}" for name in SUPPORT} - set(paths) == set()


def has_code(path: str) -> bool:
    return any(line.startswith(("def ", "METHODS |=")) for line in (ROOT / path).read_text().splitlines())


def test_every_line_of_the_tree_except_methods_has_a_description() -> None:
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.S)
    undescribed = [line.strip() for line in block.splitlines() if len(line.split()) < 2]
    assert {name.removesuffix(".py") for name in undescribed} <= method_names()


def method_names() -> set[str]:
    from cl.config.methods import METHODS

    return set(METHODS)


def test_identifiers_in_the_text_exist() -> None:
    text = re.sub(r"```text\n.*?```", "", PAGE, flags=re.S)
    files = [*(ROOT / "cl").rglob("*.py"), *ROOT.glob("main_*.py"), *(ROOT / "tests").glob("*.py")]
    source = "\n".join(path.read_text() for path in files)
    for name in re.findall(r"`([A-Za-z_][\w.]*)`", text):
        if name.endswith((".py", ".md", ".csv", ".json", ".png", ".ckpt")) or name.split(".")[-1] == "config":
            continue
        identifier = name.split(".")[-1]
        assert re.search(rf"\b{re.escape(identifier)}\b", source), name


def test_paths_in_the_text_exist() -> None:
    text = re.sub(r"```text\n.*?```", "", PAGE, flags=re.S)
    for path in re.findall(r"`((?:cl|tests|bash_files|docs)/[\w/.]*)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path
