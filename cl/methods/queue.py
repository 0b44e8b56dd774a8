"""A queue: the newest rows of all processes, in the order of global batches (MoCo, arXiv 1911.05722)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from cl.distributed import gather, world_size
from cl.losses.precision import full_precision
from cl.methods.replicated import Replicated


class Queue(Replicated):
    """[K, ...] rows, of which the newest replace the oldest, once per optimizer step.

    All batches of a step see the same rows, among which are none of its own: they are written after it.
    """

    rows: Tensor
    written: Tensor  # rows since the start of the run; the next one goes to row `written` % K

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._pending: list[Tensor] = []  # of the batches of this step, from all processes

    def add(self, rows: Tensor, parts: int = 1) -> None:
        """Keep this process's rows [B, ...] of a batch of `parts` for `commit`, in the order of the images."""
        rows = rearrange(gather(rows.detach()), "(w p b) ... -> (p w b) ...", w=world_size(), p=parts)
        self._pending.append(rows.to(self.rows.dtype))

    def commit(self, taken: Tensor) -> None:
        """Write the rows of the step, of which there are at most K; none of them where `taken` is 0."""
        new = torch.cat(self._pending)
        self._pending = []
        where = (self.written + torch.arange(len(new), device=new.device)) % len(self.rows)
        self.rows[where] = torch.where(taken > 0, new, self.rows[where])
        self.written += len(new) * (taken > 0)


def random_directions(count: int, dim: int, seed: int) -> Tensor:
    """[count, dim] unit rows, equal on all processes: what a queue of projections begins with (MoCo)."""
    return directions(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


@full_precision
def directions(z: Tensor) -> Tensor:
    """[B, D] projections -> unit rows without gradient, of float32 at least: half types lose their length."""
    return F.normalize(z.detach(), dim=1)
