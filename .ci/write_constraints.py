"""Write the versions that pip may be held to: python .ci/write_constraints.py, in the environment that passed CI.

.ci/oldest.txt   the lower bounds of requirements.txt, with any patch release: what CI installs to try them
constraints.txt  all that is installed here because of requirements.txt: for pip install -c constraints.txt
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
HEAD = "# Written by .ci/write_constraints.py.\n"


def requirements(file: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def oldest() -> list[str]:
    """Each requirement at its lower bound: >=2.11 becomes ==2.11.*, >=1.0.20 becomes ==1.0.20."""
    lines = []
    for requirement in requirements("requirements.txt"):
        (low,) = [one.version for one in requirement.specifier if one.operator == ">="]
        exact = low if low.count(".") > 1 else f"{low}.*"
        marker = f"; {requirement.marker}" if requirement.marker else ""
        lines.append(f"{requirement.name}=={exact}{marker}")
    return lines


def installed() -> list[str]:
    """The installed versions of the requirements, and of what they require here."""
    waiting = requirements("requirements.txt")
    versions: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in versions or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{requirement}: not installed; expected an environment with requirements.txt") from None
        versions[name] = found.version
        for extra in ("", *requirement.extras):
            for line in map(Requirement, found.requires or []):
                if not line.marker or line.marker.evaluate({"extra": extra}):
                    waiting.append(line)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def write(file: str, lines: list[str]) -> None:
    (ROOT / file).write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write(".ci/oldest.txt", oldest())
    write("constraints.txt", installed())
