"""The table as Markdown: accuracies of the rows, then paired differences, each with its 95 % interval."""

from collections.abc import Callable, Mapping, Sequence

from cl.errors import markdown_cell
from cl.worth.statistics import Interval

Cells = Mapping[str, Mapping[str, Interval]]  # row -> column -> interval


def percent(interval: Interval) -> str:
    """An accuracy: 81.7 % (76.4 to 86.1)."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def points(interval: Interval) -> str:
    """A difference: +4.1 (0.5 to 7.7)."""
    value, low, high = (_signed(x) for x in interval)
    return f"{value} ({low} to {high})"


def _signed(fraction: float) -> str:
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def table(heading: str, cells: Cells, text: Callable[[Interval], str]) -> str:
    """Markdown of `cells`, each as `text` writes it."""
    return markdown(heading, {row: {name: text(cell) for name, cell in of.items()} for row, of in cells.items()})


def markdown(heading: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Rows of cells by column, aligned so that the table can also be read on a terminal."""
    columns = list(next(iter(rows.values())))
    lines = [[heading, *columns], *([markdown_cell(name), *row.values()] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)) + " |"
