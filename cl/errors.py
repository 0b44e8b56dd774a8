class UserError(Exception):
    """Something the user can mend: one line that says what was given, what was expected and which flag to change."""


class Stopped(Exception):
    """A run that ends early, with all that is needed to go on: one line, and the exit code that says why.

    Where all processes stop together, the first one has the line.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


NOT_FINITE = 3  # exit codes: the loss was not finite, too often
NOT_WRITTEN = 4  # a checkpoint could not be written
RESUMABLE = 75  # saved after SIGTERM or SIGUSR1: the same command with --resume_training_from auto goes on
INTERRUPTED = 130  # Ctrl-C
