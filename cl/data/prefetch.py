"""Prepare the next batch while the GPU trains on the current one."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch

from cl.batch import Batch


def prefetch(reads: Iterable[Any], to_batch: Callable[[Any], Batch], device: torch.device) -> Iterator[Batch]:
    """Yield `to_batch` of each read; on a GPU one batch ahead, with transfer and augmentation on a side stream.

    Lightning's `on_after_batch_transfer` runs on the training stream, so it cannot overlap with the step.
    """
    if device.type != "cuda":
        yield from map(to_batch, reads)
        return
    side = _side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # `to_batch` reads the resident images
    following: tuple[Batch, torch.cuda.Event] | None = None
    iterator = iter(reads)
    while True:
        current = following
        following = None
        with torch.cuda.stream(side):
            read = next(iterator, None)
            if read is not None:
                following = to_batch(read), side.record_event()
        if current is not None:
            yield _hand_over(*current, device)  # a local variable would keep the batch alive longer
        elif following is None:
            return


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all loaders: the allocator gives memory that was used on a stream to that stream only."""
    return torch.cuda.Stream(device)


def _hand_over(batch: Batch, ready: torch.cuda.Event, device: torch.device) -> Batch:
    """Let the training stream wait for `batch`, and tell the allocator that it uses the batch's memory."""
    training = torch.cuda.current_stream(device)
    training.wait_event(ready)
    for tensor in (batch.index, batch.target, *batch.views):
        tensor.record_stream(training)
    return batch
