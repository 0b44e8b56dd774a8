"""What a process does with signals that are meant for those it has started."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def forwarding_signals(processes: Sequence["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """The signals that a run hears go to `processes`, and it is they that decide what to do."""

    def forward(number: int, _: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = {each: signal.signal(each, forward) for each in STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
