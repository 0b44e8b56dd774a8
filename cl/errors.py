class UserError(Exception):
    """A mistake the user can fix: one line that says what was given, what was expected and which flag to change."""


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
