"""What users are told: errors, exit codes, and text from users that is shown to them."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake the user can fix: one line that says what was given, what was expected and which flag to change."""


class LauncherError(UserError):
    """Variables of a launcher that do not fit together: every process reports it, as none may be rank 0."""


@contextmanager
def mentioning(left_out: Iterable[str]) -> Iterator[None]:
    """Add to a refusal what was left out of the data: it is often the cause."""
    try:
        yield
    except UserError as error:
        raise UserError("; ".join([str(error), *left_out])) from None


class Stopped(Exception):
    """A run that ends early but can be resumed: a one-line message and an exit code.

    When all processes stop together, only rank 0 carries the message.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


# Exit codes.
NOT_FINITE = 3  # too many consecutive steps with a non-finite loss or gradient
NOT_WRITTEN = 4  # a checkpoint could not be written
RESUMABLE = 75  # saved after SIGTERM or SIGUSR1; the same command with --resume_training_from auto resumes
INTERRUPTED = 130  # Ctrl-C

# Control characters, separators of lines and paragraphs, marks that reverse the direction of text, and lone surrogates
# (bytes of a file name that are not UTF-8). Terminals ignore NUL.
_UNPRINTABLE = re.compile("[\x01-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")  # an underscore within a word is none
FORMULA = ("=", "+", "-", "@")  # with which a cell starts that a spreadsheet runs


def one_line(text: str) -> str:
    """Text from users for a terminal, one line or one cell: what is not printable is escaped as in Python."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def warn(text: str) -> None:
    """One line on stderr; the run goes on."""
    print(one_line(f"warning: {text}"), file=sys.stderr, flush=True)


def markdown_cell(text: str) -> str:
    """Text for a cell of a Markdown table: no character is markup."""
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", one_line(text))


def csv_cell(text: str) -> str:
    """Text for a cell of a CSV file; an apostrophe keeps a spreadsheet from running a formula. Not for numbers."""
    return f"'{one_line(text)}" if text.startswith(FORMULA) else one_line(text)


def count_of(count: int, noun: str) -> str:
    """`1 node`, `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def format_bytes(count: float) -> str:
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 or not count else f"{count / 2**20:.2g} MiB"
