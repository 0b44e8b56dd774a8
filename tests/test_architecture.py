"""docs/architecture.md: its tree has every file and no other, and the names in its tables exist."""

import re
from collections.abc import Iterator

from tests.conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
LISTED_WHOLE = ("cl", "bench")  # folders of which each module has a line
SUPPORT = {path.name for path in (ROOT / "tests").glob("*.py") if not path.name.startswith(("test_", "__"))}


def listed() -> Iterator[str]:
    """The paths of the tree."""
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.S)
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = [*folders[:depth], name.rstrip("/")]
        yield "/".join(folders) + "/" * name.endswith("/")


def test_the_tree_has_every_module_and_nothing_else() -> None:
    paths = list(listed())
    assert len(paths) == len(set(paths))
    for path in paths:
        assert (ROOT / path).exists(), path
    for folder in LISTED_WHOLE:
        files = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}
        code = {path for path in files if not path.endswith("__init__.py") or holds_code(path)}
        assert code - set(paths) == set(), "not in docs/architecture.md"
    assert {f"tests/{name}" for name in SUPPORT} - set(paths) == set()


def holds_code(path: str) -> bool:
    return any(line.startswith(("def ", "METHODS |=")) for line in (ROOT / path).read_text().splitlines())


def test_every_module_has_its_purpose_beside_it() -> None:
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.S)
    without = [line.strip() for line in block.splitlines() if len(line.split()) < 2]
    assert {name.removesuffix(".py") for name in without} <= methods()


def methods() -> set[str]:
    from cl.config.methods import METHODS

    return set(METHODS)


def test_names_of_code_in_the_text_exist() -> None:
    text = re.sub(r"```text\n.*?```", "", PAGE, flags=re.S)
    files = [*(ROOT / "cl").rglob("*.py"), *ROOT.glob("main_*.py"), *(ROOT / "tests").glob("*.py")]
    source = "\n".join(path.read_text() for path in files)
    for name in re.findall(r"`([A-Za-z_][\w.]*)`", text):
        if name.endswith((".py", ".md", ".csv", ".json", ".png", ".ckpt")) or name.split(".")[-1] == "config":
            continue
        last = name.split(".")[-1]
        assert re.search(rf"\b{re.escape(last)}\b", source), name


def test_paths_in_the_text_exist() -> None:
    text = re.sub(r"```text\n.*?```", "", PAGE, flags=re.S)
    for path in re.findall(r"`((?:cl|tests|bash_files|docs)/[\w/.]*)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path
