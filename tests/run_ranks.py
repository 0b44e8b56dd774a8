"""A pool of W gloo processes that lives for a test session, forked from a server that has imported everything."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT = 60  # seconds for a case


class RanksFailed(AssertionError):
    """A rank raised, was killed or did not answer."""


class Ranks:
    """`run` calls a function on every rank at once. After a failure the pool is started anew."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder, self._starts = size, folder, 0
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = TIMEOUT) -> list[Any]:
        """What `function` returned on each rank; RanksFailed if any of them failed, hung or died."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, args))
        answers: dict[int, Any] = {}
        while len(answers) < self.size:
            waiting = [pipe for rank, pipe in enumerate(self._pipes) if rank not in answers]
            ready = wait([*waiting, *(process.sentinel for process in self._processes)], timeout)
            dead = [r for r, process in enumerate(self._processes) if process.sentinel in ready]
            for pipe in (pipe for pipe in waiting if pipe in ready):
                rank = self._pipes.index(pipe)
                answers[rank] = self._answer(rank, dead)
            if dead or not ready:
                silent = [rank for rank in range(self.size) if rank not in answers]
                self._fail(f"ranks {dead} died" if dead else f"no answer within {timeout} s from {silent}")
        return [answers[rank] for rank in range(self.size)]

    def _answer(self, rank: int, dead: Sequence[int]) -> Any:
        try:
            good, answer = self._pipes[rank].recv()
        except EOFError:
            return self._fail(f"rank {rank} died")
        return answer if good else self._fail(f"rank {rank}: {answer}")

    def _fail(self, reason: str) -> None:
        self.close()
        raise RanksFailed(reason)

    def _start(self) -> None:
        self._starts += 1
        store = self.folder / f"store-{self.size}-{self._starts}"
        context = multiprocessing.get_context("forkserver")  # a pool that is started again imports nothing
        context.set_forkserver_preload(["tests.preload"])
        for rank in range(self.size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, self.size, store), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []


def _serve(pipe: Connection, rank: int, size: int, store: Path) -> None:
    """One rank: call what comes, answer with its result or its traceback."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(store), size), rank=rank, world_size=size)
    while True:
        function, args = pipe.recv()
        try:
            pipe.send((True, function(*args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
