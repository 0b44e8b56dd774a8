"""List the measured tables of README and docs, and which of them are older than their code: python .ci/evidence.py

Above each such table a comment names the commit that it was measured at, the day, the command, and the code that it
depends on.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- measured at (\w+) on ([\d-]+) by `(.+)`; code: (.+) -->")
FIGURE = re.compile(r"\d (%|s|ms|MiB|images/s)( |$)|kills")


class Measured(NamedTuple):
    """A table, and where it comes from."""

    page: str
    section: str
    commit: str
    day: str
    command: str
    code: tuple[str, ...]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def tables(page: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Section, last line before, and rows of each table outside of code."""
    section = ""
    before = ""
    rows: list[str] = []
    in_code = False
    for line in [*page.read_text().splitlines(), ""]:
        in_code ^= line.startswith("```")
        if line.startswith("|") and not in_code:
            rows.append(line)
            continue
        if rows:
            yield section, before, rows
            rows = []
            before = ""
        if line.startswith("#") and not in_code:
            section = line.lstrip("# ")
        before = line or before


def measured() -> Iterator[Measured]:
    for page in pages():
        for section, before, _ in tables(page):
            mark = MARK.fullmatch(before)
            if mark:
                commit, day, command, code = mark.groups()
                yield Measured(str(page.relative_to(ROOT)), section, commit, day, command, tuple(code.split()))


def unmarked() -> Iterator[tuple[str, str]]:
    """Page and section of each table with figures and without a mark."""
    for page in pages():
        for section, before, rows in tables(page):
            cells = [cell.strip() for row in rows for cell in row.split("|")]
            if any(map(FIGURE.search, cells)) and not MARK.fullmatch(before):
                yield page.name, section


def commits_since(table: Measured) -> int:
    """How many commits have changed the code of a table."""
    command = ["git", "rev-list", "--count", f"{table.commit}..HEAD", "--", *table.code]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    print("| page | section | commit | day | commits to its code since | command |\n|---|---|---|---|---|---|")
    for table in measured():
        cells = (table.page, table.section, table.commit, table.day, commits_since(table), f"`{table.command}`")
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
