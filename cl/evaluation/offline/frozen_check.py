"""Check that an evaluation of frozen features leaves the backbone unchanged, to the bit."""

import torch
from torch import Tensor, nn


def snapshot(backbone: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in backbone.state_dict().items()}


def check_unchanged(backbone: nn.Module, before: dict[str, Tensor]) -> None:
    """Raise RuntimeError unless every parameter and buffer has the same bits as in `before`; NaN equals itself here."""
    after = snapshot(backbone)
    changed = sorted(name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name)))
    if changed:
        raise RuntimeError(f"the frozen backbone no longer matches the checkpoint: {', '.join(changed)}")


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
