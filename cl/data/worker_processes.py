"""torch's DataLoader with workers that report whatever keeps them from delivering, and that end with the run.

torch itself reports what the reading of a batch raises, and workers that die. What sending a batch raises, in a thread
of the worker, it only prints, and the run waits for ever: shared memory that is too small, too many open files.
"""

import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from multiprocessing.process import BaseProcess
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from cl.data.decoding.decode import BrokenFile
from cl.errors import Stopped, one_line
from cl.machine.children import advice, end_with_parent, lost_worker

# Workers are children of the run, whose SIGTERM they obey: with "forkserver", Python 3.14's default, they would not be.
WORKER_CONTEXT = "fork" if sys.platform == "linux" else None
PREFETCHED = 2  # batches per worker that are read ahead
END = object()

T = TypeVar("T")


class Waiting:
    """Since when the training process waits for a batch; None while it does not."""

    since: float | None = None


class Deliveries:
    """Batches of a data set, read by workers; each iteration is a pass over `batches`."""

    def __init__(
        self,
        images: Dataset[Any],
        batches: Sampler[Any] | Iterable[Any],
        workers: int,
        persistent: bool = False,
        pin_memory: bool = False,
    ) -> None:
        # torch counts cores that the process may not use, and its text names no flag; the banner warns instead.
        warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
        self._workers = workers
        self._processes: list[BaseProcess] = []
        self._loader: DataLoader[Any] = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers > 0 else None,
            collate_fn=_unchanged,
            worker_init_fn=partial(_init_worker, os.getpid()),
            multiprocessing_context=WORKER_CONTEXT if workers > 0 else None,
            persistent_workers=persistent and workers > 0,
            pin_memory=pin_memory,
        )

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; Stopped, with the reason, if one does not come."""
        reads: Iterator[Any] = iter(())
        try:
            others = multiprocessing.active_children()
            reads = iter(self._loader)
            self._processes += [child for child in multiprocessing.active_children() if child not in others]
            while True:
                Waiting.since = time.monotonic()
                read = next(reads, END)
                Waiting.since = None
                if read is END:
                    return
                yield read
        except BrokenFile as error:
            reason = str(error).rstrip().split("BrokenFile: ")[-1]  # a worker's exception carries its traceback as text
            failure = f"{reason}; it was a valid image when the run began, restore it and resume"
        except Stopped:
            self._kill_workers()
            raise
        except Exception as error:
            if self._workers == 0:
                raise
            failure = _failure(error, self._processes)
        finally:
            Waiting.since = None
        self._kill_workers()
        del reads  # else the exception keeps torch's iterator, which joins its workers whenever it is collected
        raise Stopped(failure, 1)

    def _kill_workers(self) -> None:
        """They may react to nothing: torch would wait five seconds for each, and raise because they died."""
        on_death = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(1)
        signal.signal(signal.SIGCHLD, on_death)


def each(function: Callable[[int], T], count: int, workers: int, description: str, at_once: int = 16) -> Iterator[T]:
    """`function` of 0 to `count` - 1 in order, called in workers, with a progress bar."""
    positions = [range(first, min(first + at_once, count)) for first in range(0, count, at_once)]
    results = chain.from_iterable(Deliveries(_Results(function), positions, workers))
    yield from tqdm(results, one_line(description), total=count, leave=False, disable=not sys.stderr.isatty())


class _Results(Dataset[Any]):
    """Adapts a function to torch's DataLoader."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return list(map(self.function, indices))


def _failure(error: Exception, workers: Sequence[BaseProcess]) -> str:
    """One line about an exception of a worker, which carries its traceback as text, or of receiving from one."""
    text = str(error).strip() or repr(error)
    lost = lost_worker(text)
    if lost:
        return next(filter(None, map(_end_of, workers)), lost)
    if "Traceback" in text:
        lines = text.splitlines()
        frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
        reason = " ".join(" ".join(lines[max(frames, default=-1) + 1 :]).split())
    else:
        reason = f"{type(error).__name__}: {' '.join(text.split())}"
    places = re.findall(r'File "(.*?)", line (\d+)', text)
    hint = advice(reason) or (f"at {places[-1][0]}, line {places[-1][1]}" if places else "")
    return f"a loader worker could not deliver a batch: {reason}" + (f"; {hint}" if hint else "")


def _end_of(worker: BaseProcess) -> str:
    """How a worker has died, which torch does not say if it notices by itself; "" for the others."""
    code = worker.exitcode
    if not code:
        return ""
    end = (
        f"exited unexpectedly with exit code {code}" if code > 0 else f"is killed by signal: {signal.strsignal(-code)}"
    )
    return lost_worker(f"DataLoader worker (pid {worker.pid}) {end}")


def _init_worker(parent: int, worker: int) -> None:
    end_with_parent(parent)
    sys.excepthook = _end_unless_closed_connection
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_the_error  # type: ignore[attr-defined]
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE):  # torch's handlers print a line of their own
        signal.signal(number, signal.SIG_DFL)
    _ignore_job_signals()


def _send_the_error(queue: Any, error: Exception, item: Any) -> None:
    """Called by the thread that sends batches, when it cannot: send the reason in the batch's place."""
    number, data = item
    if isinstance(data, ExceptionWrapper):
        _exit_with(error)
    queue.put((number, ExceptionWrapper((type(error), error, error.__traceback__), where="while sending a batch")))


def _end_unless_closed_connection(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """For torch's threads. A run that stops does not fetch the tensors that were offered to it."""
    if not issubclass(kind, ConnectionError):
        _exit_with(error)


def _exit_with(error: BaseException) -> None:
    """End the worker; its exit code says why."""
    os._exit(error.errno if isinstance(error, OSError) and error.errno else 1)


def _ignore_job_signals() -> None:
    """Signals to a whole job reach its workers too: if they died, no step could finish and be saved."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _unchanged(batch: Any) -> Any:
    """Collate nothing: executors read whole batches."""
    return batch
