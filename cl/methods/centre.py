"""A centre: the moving average of a teacher's scores over all images of all processes (DINO, arXiv 2104.14294)."""

import torch
from torch import Tensor

from cl.distributed import sum_over_ranks
from cl.methods.replicated import Replicated


class Centre(Replicated):
    """[K] values, zeros at first; all batches of an optimizer step see the same ones, and move them together."""

    values: Tensor

    def __init__(self, size: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("values", torch.zeros(size))
        self._pending: list[Tensor] = []  # [K + 1] of each batch of this step: the sum of its rows, their number

    def add(self, rows: Tensor) -> None:
        """Keep the sum of this process's rows [N, K] of a batch for `commit`."""
        rows = rows.detach().to(self.values.dtype)
        self._pending.append(torch.cat([rows.sum(dim=0), rows.new_full((1,), len(rows))]))

    def commit(self, taken: Tensor) -> None:
        """Move to momentum x centre + (1 - momentum) x mean of the step's rows; not at all where `taken` is 0."""
        total = sum_over_ranks(torch.stack(self._pending).sum(dim=0))
        self._pending = []
        moved = self.momentum * self.values + (1 - self.momentum) * total[:-1] / total[-1]
        self.values.copy_(torch.where(taken > 0, moved, self.values))
