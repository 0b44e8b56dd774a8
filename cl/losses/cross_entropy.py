import torch.nn.functional as F
from torch import Tensor

from cl.distributed import global_mean, world_size
from cl.losses.precision import full_precision


@full_precision
def labelled_cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the labelled rows; 0, not NaN, if no row is labelled.

    The mean over processes is that of the global batch, even if their numbers of labels differ.

    Args:
        logits: [B, C] of a linear head.
        target: [B] int64, -1 for no label.

    Returns:
        The loss (scalar), and the sum over this process's labelled rows (scalar), for epoch means.
    """
    total = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    labelled = global_mean((target >= 0).sum().to(total.dtype))  # a mean: 1 / W for a single label in all processes
    return total / labelled.clamp(min=1 / world_size()), total
