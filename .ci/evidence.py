"""List what README and docs say was measured, and what of it is older than its code: python .ci/evidence.py

Above each such table, and in each section whose text reports a measurement, a comment names the commit that it was
measured at, the day, the command, and the code that it depends on.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- measured at (\w+) on ([\d-]+) by `(.+)`; code: (.+) -->")
FIGURE = re.compile(r"\d (%|s|ms|MiB|images/s)( |$)|kills")  # a cell of a table
AMOUNT = re.compile(r"\d (%|s\b|ms\b|seconds|minutes|hours|[KMG]i?B|images/s|kills|points|times as)|\dx\b")
REPORT = re.compile(r"EPYC|H100|\bcores?\b|measured|\bseeds? \d|here took|times as (many|fast)")


class Measured(NamedTuple):
    """A measurement, and where it comes from."""

    page: str
    section: str
    commit: str
    day: str
    command: str
    code: tuple[str, ...]


class Block(NamedTuple):
    """Neighbouring lines of a page, outside of code: a paragraph, a list, a table or a comment."""

    page: str
    section: str
    lines: tuple[str, ...]

    @property
    def is_table(self) -> bool:
        return self.lines[0].startswith("|")

    @property
    def marks(self) -> list[Measured]:
        found = filter(None, map(MARK.fullmatch, self.lines))
        return [Measured(self.page, self.section, *mark.groups()[:3], tuple(mark[4].split())) for mark in found]

    @property
    def reports(self) -> bool:
        """Whether it says what was measured."""
        if self.is_table:
            return any(FIGURE.search(cell.strip()) for line in self.lines for cell in line.split("|"))
        text = " ".join(" ".join(self.lines).split())
        return bool(AMOUNT.search(text) and REPORT.search(text))


def blocks() -> Iterator[Block]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        section = ""
        lines: list[str] = []
        in_code = False
        for line in [*path.read_text().splitlines(), ""]:
            fence = line.startswith("```")
            in_code ^= fence
            if line.strip() and not in_code and not fence and not line.startswith("#"):
                lines.append(line)
                continue
            if lines:
                yield Block(str(path.relative_to(ROOT)), section, tuple(lines))
                lines = []
            if line.startswith("#") and not in_code:
                section = line.lstrip("# ")


def measured() -> Iterator[Measured]:
    for block in blocks():
        yield from block.marks


def unmarked() -> Iterator[tuple[str, str]]:
    """Page and section of each report without a mark: above it if it is a table, otherwise in its section."""
    marked = {(mark.page, mark.section) for mark in measured()}
    before: list[Measured] = []
    for block in blocks():
        place = block.page, block.section
        if block.reports and not (before if block.is_table else place in marked):
            yield place
        before = block.marks


def commits_since(measurement: Measured) -> int:
    """How many commits have changed its code."""
    command = ["git", "rev-list", "--count", f"{measurement.commit}..HEAD", "--", *measurement.code]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    print("| page | section | commit | day | commits to its code since | command |\n|---|---|---|---|---|---|")
    for each in measured():
        cells = (each.page, each.section, each.commit, each.day, commits_since(each), f"`{each.command}`")
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
