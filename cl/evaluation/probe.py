"""The online linear head: it shows during pretraining how good the features are, and changes nothing about them."""

import torch.nn.functional as F
from torch import Tensor


def probe_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled rows; 0, not NaN, where none is labelled.

    Args:
        logits: [B, C] of the head on detached features.
        target: [B] int64, -1 for no label.
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)
