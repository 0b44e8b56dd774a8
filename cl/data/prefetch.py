"""The next batch is made while the GPU trains on this one."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from cl.batch import Batch


def prefetch(reads: Iterable[Any], to_batch: Callable[[Any], Batch], device: torch.device) -> Iterator[Batch]:
    """`to_batch` of each of `reads`; on a GPU one batch ahead, with transfer and augmentation on a stream of their own.

    Lightning's `on_after_batch_transfer` runs on the stream that trains, and so cannot overlap with the step.
    """
    if device.type != "cuda":
        yield from map(to_batch, reads)
        return
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))  # for what `to_batch` reads: the resident images
    made: tuple[Batch, torch.cuda.Event] | None = None
    coming = iter(reads)
    while True:
        waiting, made = made, None
        with torch.cuda.stream(beside):
            read = next(coming, None)
            if read is not None:
                made = to_batch(read), beside.record_event()
        if waiting is not None:
            yield _handed_over(*waiting, device)
        elif made is None:
            return


def _handed_over(batch: Batch, made: torch.cuda.Event, device: torch.device) -> Batch:
    """`batch` on the training stream, which waits for it, and whose use of its memory the allocator respects."""
    training = torch.cuda.current_stream(device)
    training.wait_event(made)
    for tensor in (batch.index, batch.target, *batch.views):
        tensor.record_stream(training)
    return batch
