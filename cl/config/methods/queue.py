"""What methods with a queue declare in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Flag
from cl.config.methods.base import MAX_UNITS, MethodConfig
from cl.errors import UserError

QUEUE_SIZE = Flag(
    "rows of the queue: projections of former batches; at least one optimizer step's", low=2, high=MAX_UNITS
)


@dataclass(frozen=True)
class QueueConfig(MethodConfig):
    """The size of the queue, and what it has to fit."""

    queue_size: Annotated[int, QUEUE_SIZE] = 65536

    def check_batch(self, global_batch: int) -> None:
        if self.queue_size < global_batch:
            raise UserError(
                f"--queue_size: got {self.queue_size}, expected at least the {global_batch} images of an optimizer "
                "step (--batch_size x processes x --accumulate), which enter it together"
            )

    def warnings(self, images: int, global_batch: int, classes: int = 0) -> Iterator[str]:
        """An image's own row of the last epoch is still there if the queue outlasts an epoch (moco#87)."""
        longest = images - global_batch
        if self.queue_size > max(longest, global_batch):
            half = max(1, longest // 2)
            size = max(global_batch, 2 ** (half.bit_length() - 1))
            yield (
                f"--queue_size {self.queue_size}: with {images} images the queue often holds an earlier view of an "
                f"image in the batch; --queue_size {size} avoids most of this"
            )
