from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake the user can fix: one line that says what was given, what was expected and which flag to change."""


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
