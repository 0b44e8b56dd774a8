"""Forward signals to child processes."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def forwarding_signals(processes: Sequence["subprocess.Popen[bytes]"]) -> Iterator[list[int]]:
    """Forward stop signals to `processes`, which decide how to handle them; yields the signals received so far."""
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
