"""The files that name a version agree: python .ci/check_release.py 0.2.0"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def versions_named() -> dict[str, str]:
    """The newest version that each file names."""
    patterns = {
        "cl/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$",
        "README.md": r"^cl (\S+): ",
    }
    found = {file: re.search(pattern, (ROOT / file).read_text(), flags=re.M) for file, pattern in patterns.items()}
    return {name: match[1] if match else "none" for name, match in found.items()}


def problems(version: str) -> list[str]:
    """What keeps `version` from being released."""
    wrong = [f"{name}: got {named}, expected {version}" for name, named in versions_named().items() if named != version]
    changes = (ROOT / "CHANGELOG.md").read_text()
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)^## \[", changes, flags=re.M | re.S)
    if unreleased is None or unreleased[1].strip():
        wrong.append("CHANGELOG.md: expected an empty section [Unreleased] above that of the version")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "version" in project:
        wrong.append("pyproject.toml: expected no version, which is that of cl/__init__.py")
    return wrong


if __name__ == "__main__":
    found = problems(sys.argv[1])
    if found:
        sys.exit("\n".join(found))
    print(f"every file names {sys.argv[1]}")
